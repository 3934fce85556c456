// The portable level: plain C++ for any processor.
#pragma once

#include "level.h"

namespace hyperpq::portable {

#define HYPERPQ_TARGET
#include "loops.inl"
#include "compare.inl"

inline bool runs_here() {
  return true;
}

constexpr size_t kFine = 256;

inline size_t add(const View& view, size_t c, size_t active, Survivors& out) {
  uint8_t* sums = out.sums;
  const size_t column = view.order[c];
  const uint8_t* bytes = view.bytes + column * kFine;
  size_t kept = 0;
  for (size_t i = 0; i < active; ++i) {
    const uint32_t b = out.block[i];
    uint8_t* to = sums + kept * kBlock;
    const uint8_t* from = sums + i * kBlock;
    const uint8_t* code = view.blocks.at(b) + column * view.blocks.stride;
    uint64_t rows = 0;
    for (size_t r = 0; r < kBlock; ++r) {
      const unsigned sum = (c ? from[r] : 0u) + bytes[code[r]];
      to[r] = static_cast<uint8_t>(sum < 255 ? sum : 255);
      rows |= static_cast<uint64_t>(to[r] <= view.limit) << r;
    }
    kept = out.keep(kept, b, rows);
  }
  return kept;
}

inline size_t at_most(const uint8_t* sums, size_t n_blocks, size_t step, uint8_t most,
                      const uint64_t* active, uint64_t* at) {
  size_t n = 0;
  for (size_t i = 0; i < n_blocks; ++i) {
    uint64_t rows = 0;
    for (size_t row = 0; row < kBlock; ++row)
      rows |= static_cast<uint64_t>(sums[i * step * kBlock + row] <= most) << row;
    at[i] = rows & active[i * step];
    n += static_cast<size_t>(__builtin_popcountll(at[i]));
  }
  return n;
}

inline size_t survivors(const View& view, size_t active, Survivors& out) {
  for (size_t c = 0; c < view.columns && active; ++c) active = add(view, c, active, out);
  return active;
}

#undef HYPERPQ_TARGET

}  // namespace hyperpq::portable
