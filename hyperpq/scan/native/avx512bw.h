// The AVX-512 BW level, for processors that cannot permute the bytes of a whole register. A fine
// table of 128 entries is 8 lines of 16 entries, each looked up by one vpshufb.
//
// vpshufb looks up by the low four bits of an index and returns 0 where its top bit is set. An index
// is a code without its last bit, and each step subtracts 16 from it. So the index of step j has its
// top bit set exactly where j is beyond the line of the code, and all steps up to that line look up
// the same place. The table of step j therefore holds the exclusive or of line j with line j - 1,
// and the exclusive or over all steps is the entry.
#pragma once

#include <immintrin.h>

#include "level.h"

namespace hyperpq::avx512bw {

#define HYPERPQ_TARGET __attribute__((target("avx512f,avx512bw")))
#include "loops.inl"
#include "compare.inl"

inline bool runs_here() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw");
}

constexpr size_t kColumns = 2, kFine = 128;  // columns of a pass, entries of a column

// What passes.inl and coarse.inl need.
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
HYPERPQ_TARGET inline Lanes spread(const uint8_t* entries) {
  return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(entries)));
}
HYPERPQ_TARGET inline Lanes low_bits(Lanes code) {
  return _mm512_and_si512(code, _mm512_set1_epi8(15));
}
HYPERPQ_TARGET inline Lanes high_bits(Lanes code) {
  return low_bits(_mm512_srli_epi16(code, 4));
}
HYPERPQ_TARGET inline Lanes entries(Lanes table, Lanes index) {
  return _mm512_shuffle_epi8(table, index);
}
HYPERPQ_TARGET inline Lanes plus(Lanes a, Lanes b) {
  return _mm512_adds_epu8(a, b);
}
HYPERPQ_TARGET inline uint64_t within(Lanes sum, Lanes most) {
  return _mm512_cmple_epu8_mask(sum, most);
}

// Lines of a fine table.
struct Fine {
  static constexpr size_t kEntries = kFine, kLines = kFine / 16;
  Lanes line[kLines];

  HYPERPQ_TARGET void set(const uint8_t* bytes) {
    line[0] = spread(bytes);
#pragma GCC unroll 8
    for (size_t j = 1; j < kLines; ++j)
      line[j] = _mm512_xor_si512(spread(bytes + 16 * j), spread(bytes + 16 * (j - 1)));
  }
  HYPERPQ_TARGET Lanes at(Lanes code) const {
    Lanes index = _mm512_srli_epi16(code, 1);
    index = _mm512_and_si512(index, filled(kEntries - 1));
    Lanes entry = entries(line[0], index);
#pragma GCC unroll 8
    for (size_t j = 1; j < kLines; ++j) {
      index = _mm512_sub_epi8(index, filled(16));
      entry = _mm512_xor_si512(entry, entries(line[j], index));
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

}  // namespace hyperpq::avx512bw
