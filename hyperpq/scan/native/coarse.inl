// Passes with a coarse byte table: one or two look-ups of 16 entries a column. This file is included
// after passes.inl in the namespace of a level that has the operations spread (16 entries to each
// part of a register that is looked up on its own), high_bits, low_bits and entries.

// 16 entries by the high four bits of a code.
struct High {
  static constexpr size_t kEntries = kCoarse;
  Lanes high;

  HYPERPQ_TARGET void set(const uint8_t* bytes) { high = spread(bytes); }
  HYPERPQ_TARGET Lanes at(Lanes code) const { return entries(high, high_bits(code)); }
};

// Sums of these and 16 by the low four bits.
struct HighAndLow {
  static constexpr size_t kEntries = kCoarse;
  Lanes high, low;

  HYPERPQ_TARGET void set(const uint8_t* bytes) {
    high = spread(bytes);
    low = spread(bytes + 16);
  }
  HYPERPQ_TARGET Lanes at(Lanes code) const {
    return plus(entries(high, high_bits(code)), entries(low, low_bits(code)));
  }
};

HYPERPQ_TARGET inline size_t coarse_survivors(const View& view, size_t active, Survivors& out) {
  return view.low ? passes<HighAndLow, 4>(view, active, out) : passes<High, 4>(view, active, out);
}
