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

constexpr size_t kColumns = 1;

// Table entries of 32 codes; `steps` are the 16 lines that avx512bw.h describes.
HYPERPQ_TARGET inline __m256i look_up(const __m128i* steps, __m256i low) {
  const __m256i step = _mm256_set1_epi8(16);
  __m256i high = _mm256_xor_si256(low, _mm256_set1_epi8(static_cast<char>(0x80)));
  __m256i entry = _mm256_setzero_si256(), other = entry;
#pragma GCC unroll 8
  for (int j = 0; j < 8; ++j) {
    // Broadcast from memory, since the lines do not all fit in registers.
    const __m256i line = _mm256_broadcastsi128_si256(steps[j]);
    const __m256i second = _mm256_broadcastsi128_si256(steps[j + 8]);
    entry = _mm256_xor_si256(entry, _mm256_shuffle_epi8(line, low));
    other = _mm256_xor_si256(other, _mm256_shuffle_epi8(second, high));
    low = _mm256_subs_epi8(low, step);
    high = _mm256_subs_epi8(high, step);
  }
  return _mm256_xor_si256(entry, other);
}

// One bit for each of 32 sums that is at most `most`.
HYPERPQ_TARGET inline uint64_t at_most(__m256i sum, __m256i most) {
  const __m256i within = _mm256_cmpeq_epi8(_mm256_min_epu8(sum, most), sum);
  return static_cast<uint32_t>(_mm256_movemask_epi8(within));
}

HYPERPQ_TARGET inline size_t add(const View& view, size_t c, size_t active, uint8_t* sums,
                                 Survivors& out) {
  const size_t column = view.order[c];
  const uint8_t* bytes = view.bytes + column * 256;
  alignas(16) uint8_t lines[256];
  for (int i = 0; i < 256; ++i)
    lines[i] = i % 128 < 16 ? bytes[i] : static_cast<uint8_t>(bytes[i] ^ bytes[i - 16]);
  const __m128i* steps = reinterpret_cast<const __m128i*>(lines);
  const __m256i most = _mm256_set1_epi8(static_cast<char>(view.limit));
  __m256i* totals = reinterpret_cast<__m256i*>(sums);
  size_t kept = 0;
  for (size_t i = 0; i < active; ++i) {
    const uint32_t b = c ? out.block[i] : static_cast<uint32_t>(i);
    const __m256i* codes =
        reinterpret_cast<const __m256i*>(view.codes + column * view.stride + b * kBlock);
    if (c == 0 && view.next) __builtin_prefetch(reinterpret_cast<const char*>(codes) + view.next);
    __m256i first = look_up(steps, _mm256_loadu_si256(codes));
    __m256i second = look_up(steps, _mm256_loadu_si256(codes + 1));
    if (c) {
      first = _mm256_adds_epu8(first, totals[2 * i]);
      second = _mm256_adds_epu8(second, totals[2 * i + 1]);
    }
    const uint64_t rows = at_most(first, most) | at_most(second, most) << 32;
    totals[2 * kept] = first;
    totals[2 * kept + 1] = second;
    kept = out.keep(kept, b, rows);
  }
  return kept;
}

#include "passes.inl"
#undef HYPERPQ_TARGET

}  // namespace hyperpq::avx2
