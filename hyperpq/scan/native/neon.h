// The NEON level. A table of 256 bytes fills four times four registers. The instruction tbl looks
// up 64 entries and returns 0 where the index is out of range; tbx leaves the lane unchanged there.
#pragma once

#include <arm_neon.h>

#include "level.h"

namespace hyperpq::neon {

#define HYPERPQ_TARGET
#include "loops.inl"
#include "compare.inl"

inline bool runs_here() {
  return true;
}

constexpr size_t kColumns = 1;

// One bit for each lane that is at most `most`.
inline uint64_t at_most(uint8x16_t sum, uint8x16_t most) {
  const uint8x16_t bit = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
  const uint8x16_t within = vandq_u8(vcleq_u8(sum, most), bit);
  return vaddv_u8(vget_low_u8(within)) | static_cast<uint64_t>(vaddv_u8(vget_high_u8(within))) << 8;
}

inline size_t add(const View& view, size_t c, size_t active, uint8_t* sums, Survivors& out) {
  const size_t column = view.order[c];
  uint8x16x4_t table[4];
  for (int i = 0; i < 4; ++i) table[i] = vld1q_u8_x4(view.bytes + column * 256 + 64 * i);
  const uint8x16_t step = vdupq_n_u8(64), most = vdupq_n_u8(view.limit);
  size_t kept = 0;
  for (size_t i = 0; i < active; ++i) {
    const uint32_t b = c ? out.block[i] : static_cast<uint32_t>(i);
    const uint8_t* codes = view.codes + column * view.stride + b * kBlock;
    uint64_t rows = 0;
    for (size_t quarter = 0; quarter < 4; ++quarter) {
      uint8x16_t code = vld1q_u8(codes + 16 * quarter);
      uint8x16_t sum = vqtbl4q_u8(table[0], code);
      for (int j = 1; j < 4; ++j) {
        code = vsubq_u8(code, step);
        // The entry found before stays where the index is not among these 64; codes that were
        // looked up already have wrapped around.
        sum = vqtbx4q_u8(sum, table[j], code);
      }
      if (c) sum = vqaddq_u8(sum, vld1q_u8(sums + i * kBlock + 16 * quarter));
      vst1q_u8(sums + kept * kBlock + 16 * quarter, sum);
      rows |= at_most(sum, most) << (16 * quarter);
    }
    kept = out.keep(kept, b, rows);
  }
  return kept;
}

#include "passes.inl"
#undef HYPERPQ_TARGET

}  // namespace hyperpq::neon
