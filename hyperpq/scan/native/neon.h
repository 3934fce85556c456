// The NEON level. A fine table of 128 bytes fills two times four registers. The instruction tbl looks
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

constexpr size_t kColumns = 1, kFine = 128;

// What passes.inl and coarse.inl need.
using Lanes = uint8x16_t;
constexpr size_t kLanes = 16;

inline Lanes filled(uint8_t byte) {
  return vdupq_n_u8(byte);
}
inline Lanes load(const uint8_t* from) {
  return vld1q_u8(from);
}
inline void store(uint8_t* to, Lanes x) {
  vst1q_u8(to, x);
}
inline Lanes spread(const uint8_t* entries) {
  return vld1q_u8(entries);
}
inline Lanes low_bits(Lanes code) {
  return vandq_u8(code, vdupq_n_u8(15));
}
inline Lanes high_bits(Lanes code) {
  return vshrq_n_u8(code, 4);
}
inline Lanes entries(Lanes table, Lanes index) {
  return vqtbl1q_u8(table, index);
}
inline Lanes plus(Lanes a, Lanes b) {
  return vqaddq_u8(a, b);
}
// One bit for each lane that is at most `most`.
inline uint64_t within(Lanes sum, Lanes most) {
  const uint8x16_t bit = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
  const uint8x16_t within = vandq_u8(vcleq_u8(sum, most), bit);
  return vaddv_u8(vget_low_u8(within)) | static_cast<uint64_t>(vaddv_u8(vget_high_u8(within))) << 8;
}

struct Fine {
  static constexpr size_t kEntries = kFine;
  uint8x16x4_t first, second;

  void set(const uint8_t* bytes) {
    first = vld1q_u8_x4(bytes);
    second = vld1q_u8_x4(bytes + 64);
  }
  // The first entry stays where the index is not among the second 64.
  Lanes at(Lanes code) const {
    const Lanes index = vshrq_n_u8(code, 1);
    return vqtbx4q_u8(vqtbl4q_u8(first, index), second, vsubq_u8(index, vdupq_n_u8(64)));
  }
};

#include "passes.inl"

HYPERPQ_TARGET inline size_t survivors(const View& view, size_t active, Survivors& out) {
  return passes<Fine, kColumns>(view, active, out);
}

#include "coarse.inl"
#undef HYPERPQ_TARGET

}  // namespace hyperpq::neon
