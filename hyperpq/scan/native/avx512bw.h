// The AVX-512 BW level, for processors that cannot permute the bytes of a whole register. A table
// of 256 entries is 16 lines of 16 entries, each looked up by one vpshufb.
//
// vpshufb looks up by the low four bits of an index and returns 0 where its top bit is set. Each
// step subtracts 16 from the codes with signed saturation. So the index of step j has its top bit
// set exactly where j is beyond the line of the code, and all steps up to that line look up the
// same column. The table of step j therefore holds the exclusive or of line j with line j - 1, and
// the exclusive or over all steps is the entry. Codes of 128 and more are negative as signed bytes;
// they are looked up in the second half of the table after their top bit was flipped.
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

constexpr size_t kColumns = 1;

HYPERPQ_TARGET inline size_t add(const View& view, size_t c, size_t active, uint8_t* sums,
                                 Survivors& out) {
  const size_t column = view.order[c];
  const uint8_t* codes = view.codes + column * view.stride;
  const __m128i* lines = reinterpret_cast<const __m128i*>(view.bytes + column * 256);
  __m512i table[16];
#pragma GCC unroll 16
  for (int j = 0; j < 16; ++j) {
    __m128i line = _mm_loadu_si128(lines + j);
    if (j % 8) line = _mm_xor_si128(line, _mm_loadu_si128(lines + j - 1));
    table[j] = _mm512_broadcast_i32x4(line);
  }
  const __m512i most = _mm512_set1_epi8(static_cast<char>(view.limit));
  const __m512i step = _mm512_set1_epi8(16), top = _mm512_set1_epi8(static_cast<char>(0x80));
  size_t kept = 0;
  for (size_t i = 0; i < active; ++i) {
    const uint32_t b = c ? out.block[i] : static_cast<uint32_t>(i);
    __m512i low = _mm512_loadu_si512(codes + b * kBlock);
    if (c == 0 && view.next) __builtin_prefetch(codes + b * kBlock + view.next);
    __m512i high = _mm512_xor_si512(low, top);
    __m512i entry = _mm512_setzero_si512(), other = entry;
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {
      entry = _mm512_xor_si512(entry, _mm512_shuffle_epi8(table[j], low));
      other = _mm512_xor_si512(other, _mm512_shuffle_epi8(table[j + 8], high));
      low = _mm512_subs_epi8(low, step);
      high = _mm512_subs_epi8(high, step);
    }
    entry = _mm512_xor_si512(entry, other);
    if (c) entry = _mm512_adds_epu8(entry, _mm512_load_si512(sums + i * kBlock));
    const uint64_t rows = _mm512_cmple_epu8_mask(entry, most);
    _mm512_store_si512(sums + kept * kBlock, entry);
    kept = out.keep(kept, b, rows);
  }
  return kept;
}

#include "passes.inl"
#undef HYPERPQ_TARGET

}  // namespace hyperpq::avx512bw
