// Rows of numbers as integers, whose products have exact sums.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

// A function for each instruction set; the loader takes the best one that the processor has.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define HYPERPQ_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define HYPERPQ_CLONES
#endif

namespace hyperpq {

// A row (k,) as integers of so many bits; returns their unit, NaN if a number is not finite. See
// `exact_products.fixed_point`.
HYPERPQ_CLONES inline double round_row(const double* row, size_t k, int bits, int32_t* integers) {
  // Numbers without their signs are in the order of their bits.
  int64_t highest = 0;
  for (size_t i = 0; i < k; ++i) {
    int64_t some;
    std::memcpy(&some, row + i, sizeof some);
    highest = std::max(highest, some & std::numeric_limits<int64_t>::max());
  }
  double largest;
  std::memcpy(&largest, &highest, sizeof largest);
  if (!std::isfinite(largest)) {
    std::fill(integers, integers + k, 0);
    return std::numeric_limits<double>::quiet_NaN();
  }
  int exponent;
  std::frexp(largest, &exponent);
  exponent = std::min(std::max(exponent - bits, -1022), 1023);
  const double factor = std::ldexp(1.0, std::min(std::max(-exponent, -1022), 1023));
  for (size_t i = 0; i < k; ++i) integers[i] = static_cast<int32_t>(std::rint(row[i] * factor));
  return std::ldexp(1.0, exponent);
}

// Sum of the products of two rows (k,).
HYPERPQ_CLONES inline int64_t row_sum(const int32_t* row, const int32_t* other, size_t k) {
  int64_t sum = 0;
  for (size_t i = 0; i < k; ++i) sum += static_cast<int64_t>(row[i]) * other[i];
  return sum;
}

}  // namespace hyperpq
