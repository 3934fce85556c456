// The interface of a level: the inner loops of the scan, compiled for one instruction set.
#pragma once

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

// A run of blocks of one tile, with the byte tables of one query.
struct View {
  const uint8_t* codes;   // code of row r of block b in column c: codes[c * stride + b * 64 + r]
  size_t stride;          // bytes from one column to the next
  size_t n_blocks;        // at most kTile
  const uint8_t* bytes;   // byte table, 256 entries for each column
  const uint16_t* order;  // columns in the order in which they are added
  size_t columns;
  uint8_t limit;
  // Offset in bytes of the next tile if it is to be prefetched, else 0. Each column of that tile is
  // a page of its own, which hardware prefetchers do not reach.
  size_t next;
};

// The blocks that still have rows within the limit, and those rows as bits (bit r for row r).
struct Survivors {
  uint32_t block[kTile];
  uint64_t rows[kTile];

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

struct Level {
  const char* name;

  bool (*runs_here)();

  // above[i] = float((table[i] - least) * unit), rounded down, for the 256 entries of a column.
  void (*lift)(const float* table, double least, double unit, float* above);

  // bytes[i] = min(255, floor(above[i] * scale)); n is a multiple of 256.
  void (*quantize)(const float* above, size_t n, float scale, uint8_t* bytes);

  // Finds the rows whose saturated sum of byte entries is at most the limit, and returns the number
  // of blocks that have any. Entries are not negative, so a block can be dropped as soon as no row
  // of it is within the limit; most blocks need only the first few columns.
  size_t (*survivors)(const View& view, Survivors& out);

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
