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
constexpr size_t kColumns = 2;

template <int G, bool fresh>
HYPERPQ_TARGET inline size_t add_columns(const View& view, size_t c, size_t active, uint8_t* sums,
                                         Survivors& out) {
  __m512i table[4 * G];
  const uint8_t* codes[G];
#pragma GCC unroll 2
  for (int g = 0; g < G; ++g) {
    const size_t column = view.order[c + g];
    codes[g] = view.codes + column * view.stride;
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i)
      table[4 * g + i] = _mm512_loadu_si512(view.bytes + column * 256 + 64 * i);
  }
  const __m512i most = _mm512_set1_epi8(static_cast<char>(view.limit));
  size_t kept = 0;
  for (size_t i = 0; i < active; ++i) {
    const uint32_t b = fresh ? static_cast<uint32_t>(i) : out.block[i];
    __m512i sum = fresh ? _mm512_setzero_si512() : _mm512_load_si512(sums + i * kBlock);
#pragma GCC unroll 2
    for (int g = 0; g < G; ++g) {
      const __m512i code = _mm512_loadu_si512(codes[g] + b * kBlock);
      if (fresh && view.next) __builtin_prefetch(codes[g] + b * kBlock + view.next);
      const __m512i low = _mm512_permutex2var_epi8(table[4 * g], code, table[4 * g + 1]);
      const __m512i high = _mm512_permutex2var_epi8(table[4 * g + 2], code, table[4 * g + 3]);
      sum = _mm512_adds_epu8(sum, _mm512_mask_blend_epi8(_mm512_movepi8_mask(code), low, high));
    }
    const uint64_t rows = _mm512_cmple_epu8_mask(sum, most);
    _mm512_store_si512(sums + kept * kBlock, sum);
    kept = out.keep(kept, b, rows);
  }
  return kept;
}

HYPERPQ_TARGET inline size_t add(const View& view, size_t c, size_t active, uint8_t* sums,
                                 Survivors& out) {
  const bool two = view.columns - c >= 2;
  if (c == 0) {
    return two ? add_columns<2, true>(view, c, active, sums, out)
               : add_columns<1, true>(view, c, active, sums, out);
  }
  return two ? add_columns<2, false>(view, c, active, sums, out)
             : add_columns<1, false>(view, c, active, sums, out);
}

#include "passes.inl"
#undef HYPERPQ_TARGET

}  // namespace hyperpq::avx512vbmi
