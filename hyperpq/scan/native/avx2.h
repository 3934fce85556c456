// The AVX2 level: the lookup of avx512bw.h with registers of 32 bytes, two for a block.
#pragma once

#include <immintrin.h>

#include "level.h"

namespace hyperpq::avx2 {

#define HYPERPQ_TARGET __attribute__((target("avx2")))
#include "loops.inl"
#include "compare.inl"

inline bool runs_here() {
  return __builtin_cpu_supports("avx2");
}

constexpr size_t kColumns = 1, kFine = 128;  // columns of a pass, entries of a column

// What passes.inl and coarse.inl need.
using Lanes = __m256i;
constexpr size_t kLanes = 32;

HYPERPQ_TARGET inline Lanes filled(uint8_t byte) {
  return _mm256_set1_epi8(static_cast<char>(byte));
}
HYPERPQ_TARGET inline Lanes load(const uint8_t* from) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
}
HYPERPQ_TARGET inline void store(uint8_t* to, Lanes x) {
  _mm256_store_si256(reinterpret_cast<__m256i*>(to), x);
}
HYPERPQ_TARGET inline Lanes spread(const uint8_t* entries) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(entries)));
}
HYPERPQ_TARGET inline Lanes low_bits(Lanes code) {
  return _mm256_and_si256(code, _mm256_set1_epi8(15));
}
HYPERPQ_TARGET inline Lanes high_bits(Lanes code) {
  return low_bits(_mm256_srli_epi16(code, 4));
}
HYPERPQ_TARGET inline Lanes entries(Lanes table, Lanes index) {
  return _mm256_shuffle_epi8(table, index);
}
HYPERPQ_TARGET inline Lanes plus(Lanes a, Lanes b) {
  return _mm256_adds_epu8(a, b);
}
// One bit for each of 32 sums that is at most `most`.
HYPERPQ_TARGET inline uint64_t within(Lanes sum, Lanes most) {
  const Lanes least = _mm256_min_epu8(sum, most);
  return static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_cmpeq_epi8(least, sum)));
}

// Lines of a fine table, as avx512bw.h describes them.
struct Fine {
  static constexpr size_t kEntries = kFine, kLines = kFine / 16;
  Lanes line[kLines];

  HYPERPQ_TARGET void set(const uint8_t* bytes) {
    line[0] = spread(bytes);
#pragma GCC unroll 8
    for (size_t j = 1; j < kLines; ++j)
      line[j] = _mm256_xor_si256(spread(bytes + 16 * j), spread(bytes + 16 * (j - 1)));
  }
  HYPERPQ_TARGET Lanes at(Lanes code) const {
    Lanes index = _mm256_srli_epi16(code, 1);
    index = _mm256_and_si256(index, filled(kEntries - 1));
    Lanes entry = entries(line[0], index);
#pragma GCC unroll 8
    for (size_t j = 1; j < kLines; ++j) {
      index = _mm256_sub_epi8(index, filled(16));
      entry = _mm256_xor_si256(entry, entries(line[j], index));
    }
    return entry;
  }
};

#include "passes.inl"
#include "coarse.inl"

HYPERPQ_TARGET inline size_t survivors(const View& view, size_t active, Survivors& out) {
  return passes<Fine, kColumns>(view, active, out);
}

#undef HYPERPQ_TARGET

}  // namespace hyperpq::avx2
