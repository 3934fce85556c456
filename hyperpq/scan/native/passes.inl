// Passes over the blocks of a view, a few columns at a time. This file is included in the namespace
// of a level that has registers of kLanes rows (`Lanes`) and the operations on them (filled, load,
// store, plus, within). A `Table` of a column has kEntries bytes, which `set` loads and `at` looks
// up.

// Adds the entries of G columns to the sums of the active blocks, and keeps the blocks that still
// have rows within the limit.
template <class Table, size_t G, bool listed, bool fresh>
HYPERPQ_TARGET inline size_t add(const View& view, size_t c, size_t active, Survivors& out) {
  size_t column_at[G];
  Table table[G];
#pragma GCC unroll 4
  for (size_t g = 0; g < G; ++g) {
    const size_t column = view.order[c + g];
    column_at[g] = column * view.blocks.stride;
    table[g].set(view.bytes + column * Table::kEntries);
  }
  const Lanes limit = filled(view.limit);
  const size_t next = fresh ? view.next : 0;
  // Listed blocks lie anywhere in memory: those that go on will need these columns.
  size_t later[G];
  for (size_t g = 0; g < G; ++g)
    later[g] = view.order[std::min(c + G + g, view.columns - 1)] * view.blocks.stride;
  size_t kept = 0;
  for (size_t i = 0; i < active; ++i) {
    const uint32_t b = out.block[i];
    const uint8_t* codes = view.blocks.at<listed>(b);
    uint64_t rows = 0;
#pragma GCC unroll 4
    for (size_t part = 0; part < kBlock; part += kLanes) {
      Lanes sum;
      if (!fresh) sum = load(out.sums + i * kBlock + part);
#pragma GCC unroll 4
      for (size_t g = 0; g < G; ++g) {
        const Lanes entry = table[g].at(load(codes + column_at[g] + part));
        sum = fresh && g == 0 ? entry : plus(sum, entry);
      }
      store(out.sums + kept * kBlock + part, sum);
      rows |= within(sum, limit) << part;
    }
    if (next)
      for (size_t g = 0; g < G; ++g) __builtin_prefetch(codes + column_at[g] + next);
    if (listed && rows)
      for (size_t g = 0; g < G; ++g) __builtin_prefetch(codes + later[g]);
    kept = out.keep(kept, b, rows);
  }
  return kept;
}

template <class Table, size_t G, size_t W, bool listed>
HYPERPQ_TARGET inline size_t passes(const View& view, size_t active, Survivors& out) {
  const size_t before = active;
  size_t c = view.columns >= G ? G : 1;
  active = c == G ? add<Table, G, listed, true>(view, 0, active, out)
                  : add<Table, 1, listed, true>(view, 0, active, out);
  if (W > G && active > before / 4)
    for (; c + W <= view.columns && active; c += W)
      active = add<Table, W, listed, false>(view, c, active, out);
  for (; c + G <= view.columns && active; c += G)
    active = add<Table, G, listed, false>(view, c, active, out);
  for (; c < view.columns && active; ++c)
    active = add<Table, 1, listed, false>(view, c, active, out);
  return active;
}

template <class Table, size_t G, size_t W = G>
HYPERPQ_TARGET inline size_t passes(const View& view, size_t active, Survivors& out) {
  return view.blocks.listed ? passes<Table, G, W, true>(view, active, out)
                     : passes<Table, G, W, false>(view, active, out);
}

HYPERPQ_TARGET inline size_t at_most(const uint8_t* sums, size_t n_blocks, size_t step,
                                     uint8_t most, const uint64_t* active, uint64_t* at) {
  const Lanes limit = filled(most);
  size_t n = 0;
  for (size_t i = 0; i < n_blocks; ++i) {
    uint64_t rows = 0;
    for (size_t part = 0; part < kBlock; part += kLanes)
      rows |= within(load(sums + i * step * kBlock + part), limit) << part;
    at[i] = rows & active[i * step];
    n += static_cast<size_t>(__builtin_popcountll(at[i]));
  }
  return n;
}
