// The interface of a level: the inner loops of the scan, compiled for one instruction set.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>

namespace hyperpq {

// Number of rows of a block, which are processed together: one AVX-512 register of codes, one word
// of a mask.
constexpr size_t kBlock = 64;
// Number of blocks of a tile. A tile stores the code bytes of its rows column by column. A column
// of 4,096 rows is a page of memory, so columns that a query skips are not fetched.
constexpr size_t kTile = 64;

// Entries of a coarse byte table for each column: 16 by the high four bits of a code, then 16 by the
// low four bits.
constexpr size_t kCoarse = 32;

// The codes of some blocks, at most kTile: those of a run of one tile, or any that are listed. The code
// of row r of block b in column c is at(b)[c * stride + r].
struct Blocks {
  const uint8_t* first;         // column 0 of the first block of a run
  const uint8_t* const* listed;  // column 0 of each block; null for a run
  size_t stride;                // bytes from one column to the next

  template <bool is_listed>
  const uint8_t* at(size_t b) const {
    return is_listed ? listed[b] : first + b * kBlock;
  }
  const uint8_t* at(size_t b) const { return listed ? at<true>(b) : at<false>(b); }
};

// Blocks with the byte tables of one query.
struct View {
  Blocks blocks;
  const uint8_t* bytes;   // byte table, Level::fine or kCoarse entries for each column
  const uint16_t* order;  // columns in the order in which they are added
  size_t columns;
  bool low;               // whether the entries by the low four bits are not all 0
  uint8_t limit;
  // Offset in bytes of the next tile if it is to be prefetched, else 0. Each column of that tile is
  // a page of its own, which hardware prefetchers do not reach.
  size_t next;
};

// The blocks that still have rows within the limit, in order; those rows as bits (bit r for row r);
// and the sums of their rows.
struct Survivors {
  uint32_t block[kTile];
  uint64_t rows[kTile];
  alignas(64) uint8_t sums[kTile * kBlock];

  // Lists n blocks.
  void list(size_t n) {
    for (size_t i = 0; i < n; ++i) block[i] = static_cast<uint32_t>(i);
  }

  // Stores block b at position `kept` and returns the next position, which is the same one if no
  // row of b is left.
  size_t keep(size_t kept, uint32_t b, uint64_t left) {
    block[kept] = b;
    rows[kept] = left;
    return kept + (left != 0);
  }
};

// How features are kept, see codec/feature_codec.py, and normalized, see codec/feature_space.py.
struct FeatureForm {
  enum Kind { kInt8, kFloat16, kFloat32 } kind;
  size_t d;
  bool root;          // whether signed square roots are taken
  const float* mean;  // d values that are subtracted then, or null
  int bits;           // of the integers

  // Bytes of a row; one of int8 begins with its scale.
  size_t size() const {
    return kind == kInt8 ? sizeof(float) + d : d * (kind == kFloat16 ? 2 : sizeof(float));
  }
};

// Entries to be made bytes: min(255, floor((x * unit - least[m] * unit) * scale)) in row m, where
// every operation is rounded to float32.
struct Entries {
  const float* x;
  size_t rows, width;
  const float* least;
  float unit, scale;
};

struct Level {
  const char* name;

  bool (*runs_here)();

  // Entries of a fine byte table for each column: 256, one for each code; or 128, one for each two
  // codes in succession.
  size_t fine;

  // The largest absolute value, as the bits of a float32; infinity and NaN are above all others.
  uint32_t (*magnitude)(const float* table, size_t n);

  // least[i] = min(x[2 i], x[2 i + 1]) for n pairs.
  void (*halve)(const float* x, size_t n, float* least);

  // Bytes of `rows` rows of `width` entries, a multiple of 16; those of a row begin at a multiple of
  // `stride`. sums[m] is the sum of the bytes of row m.
  void (*quantize)(const Entries& entries, uint8_t* bytes, size_t stride, uint32_t* sums);

  // Of blocks 0, step, 2 step, ...: at[i] has the bits of the active rows of block i * step whose
  // sums are at most `most`; returns how many these are.
  size_t (*at_most)(const uint8_t* sums, size_t n_blocks, size_t step, uint8_t most,
                    const uint64_t* active, uint64_t* at);

  // Finds the rows of the `active` blocks that `out` lists whose saturated sum of byte entries is
  // at most the limit, and returns the number of blocks that have any. Entries are not negative, so
  // a block can be dropped as soon as no row of it is within the limit; most blocks need only the
  // first few columns.
  size_t (*survivors)(const View& view, size_t active, Survivors& out);

  // The same with a coarse byte table; null where a fine one is as fast.
  size_t (*coarse_survivors)(const View& view, size_t active, Survivors& out);

  // Loads n bytes and combines them by exclusive or. Its time is a lower bound for a scan that
  // reads every byte.
  uint64_t (*stream)(const uint8_t* data, size_t n);

  // The values (d) of a row of features, normalized. Returns the largest absolute value.
  double (*values)(const uint8_t* row, const FeatureForm& form, float* out);

  // The largest absolute value of d numbers.
  double (*largest)(const double* x, size_t d);

  // Rounds x * factor to integers, and returns the sum of their squares and, in `dot`, that of
  // their products with a query of integers. Both are exact.
  double (*products)(const float* x, double factor, const double* query, size_t d, double* dot);

  // The sum of the squares of x * factor, rounded to integers.
  double (*squares)(const double* x, double factor, size_t d);
};

}  // namespace hyperpq
