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

constexpr size_t kColumns = 1;

inline size_t add(const View& view, size_t c, size_t active, uint8_t* sums, Survivors& out) {
  const size_t column = view.order[c];
  const uint8_t* codes = view.codes + column * view.stride;
  const uint8_t* bytes = view.bytes + column * 256;
  size_t kept = 0;
  for (size_t i = 0; i < active; ++i) {
    const uint32_t b = c ? out.block[i] : static_cast<uint32_t>(i);
    uint8_t* to = sums + kept * kBlock;
    const uint8_t *from = sums + i * kBlock, *code = codes + b * kBlock;
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

#include "passes.inl"
#undef HYPERPQ_TARGET

}  // namespace hyperpq::portable
