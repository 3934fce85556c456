// Passes over the blocks of a view, kColumns columns at a time. This file is included in the
// namespace of a level after its function `add`, which adds the entries of kColumns columns to the
// sums of the active blocks and keeps the blocks that still have rows within the limit.

HYPERPQ_TARGET inline size_t survivors(const View& view, Survivors& out) {
  alignas(64) uint8_t sums[kTile * kBlock];
  size_t active = view.n_blocks;
  for (size_t c = 0; c < view.columns && active; c += kColumns)
    active = add(view, c, active, sums, out);
  return active;
}
