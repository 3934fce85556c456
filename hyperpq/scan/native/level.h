// What a level is: the inner loops of the scan, compiled for one instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hyperpq {

// Rows whose codes are looked at together: one register of AVX-512, one word of a mask.
constexpr size_t kBlock = 64;
// Blocks of a tile. A tile holds its rows' code bytes column by column, so that a column of 4,096
// rows is a page, and a column that isn't looked at is not fetched.
constexpr size_t kTile = 64;

// Part of a tile, as one query sees it.
struct View {
  const uint8_t* codes;   // code of row r of block b in column c: codes[c * stride + b * 64 + r]
  size_t stride;          // bytes from column to column
  size_t n_blocks;        // at most kTile
  const uint8_t* bytes;   // 256 for each column
  const uint16_t* order;  // columns, the most telling first
  size_t columns;
  uint8_t limit;
  // Bytes to the next tile if it is to be fetched meanwhile, else 0: a column there is a page of
  // its own, which the processor doesn't foresee.
  size_t next;
};

// Blocks that still have rows within the limit: their numbers, and those rows (bit r: row r).
struct Survivors {
  uint32_t block[kTile];
  uint64_t rows[kTile];

  // Writes block b at place `kept`; the next one goes behind it only if b has rows left.
  size_t keep(size_t kept, uint32_t b, uint64_t left) {
    block[kept] = b;
    rows[kept] = left;
    return kept + (left != 0);
  }
};

struct Level {
  const char* name;

  bool (*runs_here)();

  // above[i] = float((table[i] - least) * unit), rounded down, for the 256 entries of a column.
  void (*lift)(const float* table, double least, double unit, float* above);

  // bytes[i] = min(255, floor(above[i] * scale)); n is a multiple of 256.
  void (*quantize)(const float* above, size_t n, float scale, uint8_t* bytes);

  // The rows whose saturated sum of byte entries is at most the limit. Returns how many blocks
  // have any. Entries aren't negative, so a block is done with once no row of it is within the
  // limit, whatever columns are left: most need only the first few.
  size_t (*survivors)(const View& view, Survivors& out);

  // Loads n bytes and does next to nothing with them: the floor of a scan of every byte.
  uint64_t (*stream)(const uint8_t* data, size_t n);
};

}  // namespace hyperpq
