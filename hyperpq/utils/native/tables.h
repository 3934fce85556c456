// Products of vectors with the codewords of subspaces, twice as accurate as those of integers of one
// float64; see `exact_products.ExactMatrix`.
//
// Integers and their sums are exact in float64, and units are powers of two, so that the order of
// sums, the instruction set and fused operations change nothing.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "integers.h"

namespace hyperpq {

// Codewords (M, D, K): high + low * 2^-bits, integers, times the unit of each codeword.
struct Codewords {
  const double *high, *low;  // (M, D, K)
  const double* units;       // (M, K)
  const double* lengths;     // (M, K): squared lengths; null for inner products
  size_t M, D, K;
  int bits;
};

// Vectors that are multiplied at once, and codewords whose sums stay in registers.
constexpr size_t kVectors = 4, kWords = 16;

// Sums (kVectors, kWords) of products: of high parts, and of high with low ones.
HYPERPQ_CLONES inline void sums_of_words(const double* high, const double* low, size_t D, size_t K,
                                         const double* v_high, const double* v_low, double* sums,
                                         double* rests) {
  double sum[kVectors][kWords] = {}, rest[kVectors][kWords] = {};
  for (size_t d = 0; d < D; ++d)
    for (size_t r = 0; r < kVectors; ++r)
      for (size_t k = 0; k < kWords; ++k) {
        sum[r][k] += v_high[r * D + d] * high[d * K + k];
        rest[r][k] += v_high[r * D + d] * low[d * K + k] + v_low[r * D + d] * high[d * K + k];
      }
  std::copy(&sum[0][0], &sum[0][0] + kVectors * kWords, sums);
  std::copy(&rest[0][0], &rest[0][0] + kVectors * kWords, rests);
}

// The table entries of some vectors: squared distances, or negative products.
class ProductTables {
 public:
  explicit ProductTables(const Codewords& words)
      : words_(words),
        integers_(words.D),
        high_(kVectors * words.D),
        low_(kVectors * words.D),
        squares_(words.D) {}

  // Entries (n, M, K) of n vectors (n, M, D). Appends the positions of squared distances that are a
  // smaller share of both squared lengths than `near`.
  void fill(const double* v, size_t n, double near, double* out, std::vector<int64_t>* found) {
    for (size_t first = 0; first < n; first += kVectors) {
      const size_t count = std::min(kVectors, n - first);
      for (size_t m = 0; m < words_.M; ++m) {
        const size_t stride = words_.M * words_.D;
        for (size_t r = 0; r < count; ++r) split(v + (first + r) * stride + m * words_.D, r);
        products(m, count, out + (first * words_.M + m) * words_.K);
        if (!words_.lengths) continue;
        for (size_t r = 0; r < count; ++r)
          add_lengths(m, lengths_[r], near, out, (first + r) * words_.M + m, found);
      }
    }
  }

 private:
  // Vector number r of those at once as integers.
  void split(const double* v, size_t r) {
    const size_t D = words_.D;
    units_[r] = round_row(v, D, words_.bits, integers_.data());
    const double scale = std::ldexp(1.0, words_.bits), inverse = 1 / units_[r];
    for (size_t d = 0; d < D; ++d) {
      high_[r * D + d] = integers_[d];
      low_[r * D + d] = std::rint((v[d] * inverse - integers_[d]) * scale);
      squares_[d] = v[d] * v[d];
    }
    // In the order of `exact_products.squared_lengths`.
    for (size_t width = D; width > 1;) {
      const size_t half = width / 2;
      for (size_t d = 0; d < half; ++d) squares_[d] += squares_[half + d];
      if (width % 2) squares_[half] = squares_[width - 1];
      width = half + width % 2;
    }
    lengths_[r] = D ? squares_[0] : 0;
  }

  void products(size_t m, size_t count, double* out) {
    const size_t D = words_.D, K = words_.K;
    const double scale = std::ldexp(1.0, -words_.bits);
    const double* units = words_.units + m * K;
    for (size_t first = 0; first < K; first += kWords) {
      double sums[kVectors * kWords], rests[kVectors * kWords];
      const size_t at = m * D * K + first;
      sums_of_words(words_.high + at, words_.low + at, D, K, high_.data(), low_.data(), sums,
                    rests);
      for (size_t r = 0; r < count; ++r)
        for (size_t k = 0; k < kWords; ++k) {
          const double sum = rests[r * kWords + k] * scale + sums[r * kWords + k];
          out[r * words_.M * K + first + k] = -(sum * units_[r] * units[first + k]);
        }
    }
  }

  // Negative products of row `row` of all (rows, K) to squared distances.
  void add_lengths(size_t m, double length, double near, double* out, size_t row,
                   std::vector<int64_t>* found) {
    const size_t K = words_.K;
    const double* lengths = words_.lengths + m * K;
    double* entries = out + row * K;
    unsigned any = 0;
    for (size_t k = 0; k < K; ++k) {
      const double both = lengths[k] + length;
      entries[k] = 2 * entries[k] + both;
      any |= entries[k] < both * near;
    }
    if (!any) return;
    for (size_t k = 0; k < K; ++k)
      if (entries[k] < (lengths[k] + length) * near)
        found->push_back(static_cast<int64_t>(row * K + k));
  }

  const Codewords words_;
  double units_[kVectors] = {}, lengths_[kVectors] = {};
  std::vector<int32_t> integers_;
  std::vector<double> high_, low_, squares_;
};

}  // namespace hyperpq
