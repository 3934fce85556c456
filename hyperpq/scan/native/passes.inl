// Passes over the blocks of a view, kGroup columns at a time: included inside a level's namespace
// after its `add`, which adds a group's entries to the sums of the active blocks and keeps those
// that still have rows within the limit.

HYPERPQ_TARGET inline size_t survivors(const View& view, Survivors& out) {
  alignas(64) uint8_t sums[kTile * kBlock];
  size_t active = view.n_blocks;
  for (size_t c = 0; c < view.columns && active; c += kGroup)
    active = add(view, c, active, sums, out);
  return active;
}
