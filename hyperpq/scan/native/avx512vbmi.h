// The AVX-512 VBMI level. A table of 256 bytes fills four registers. 64 codes are looked up at a
// time by two vpermi2b, with 128 entries each, and a blend by the top bit of the code.
#pragma once

#include <immintrin.h>

#include "level.h"

namespace hyperpq::avx512vbmi {

#define HYPERPQ_TARGET __attribute__((target("avx512f,avx512bw,avx512vbmi")))
#include "loops.inl"
#include "compare.inl"

inline bool runs_here() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vbmi");
}

// Two columns a pass. With three or four, adding columns to blocks that could have been dropped
// costs more than the passes saved.
constexpr size_t kColumns = 2, kFine = 256;

// What passes.inl needs.
using Lanes = __m512i;
constexpr size_t kLanes = 64;

HYPERPQ_TARGET inline Lanes filled(uint8_t byte) {
  return _mm512_set1_epi8(static_cast<char>(byte));
}
HYPERPQ_TARGET inline Lanes load(const uint8_t* from) {
  return _mm512_loadu_si512(from);
}
HYPERPQ_TARGET inline void store(uint8_t* to, Lanes x) {
  _mm512_store_si512(to, x);
}
HYPERPQ_TARGET inline Lanes plus(Lanes a, Lanes b) {
  return _mm512_adds_epu8(a, b);
}
HYPERPQ_TARGET inline uint64_t within(Lanes sum, Lanes most) {
  return _mm512_cmple_epu8_mask(sum, most);
}

struct Fine {
  static constexpr size_t kEntries = kFine;
  Lanes part[4];

  HYPERPQ_TARGET void set(const uint8_t* bytes) {
#pragma GCC unroll 4
    for (size_t i = 0; i < 4; ++i) part[i] = load(bytes + 64 * i);
  }
  HYPERPQ_TARGET Lanes at(Lanes code) const {
    // Otherwise GCC 12 loads the codes three times, and a pass takes 1.4 times as long.
    asm("" : "+v"(code));
    const Lanes low = _mm512_permutex2var_epi8(part[0], code, part[1]);
    const Lanes high = _mm512_permutex2var_epi8(part[2], code, part[3]);
    return _mm512_mask_blend_epi8(_mm512_movepi8_mask(code), low, high);
  }
};

#include "passes.inl"

HYPERPQ_TARGET inline size_t survivors(const View& view, size_t active, Survivors& out) {
  return passes<Fine, kColumns, 4>(view, active, out);
}

#undef HYPERPQ_TARGET

}  // namespace hyperpq::avx512vbmi
