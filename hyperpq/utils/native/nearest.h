// Which of some rows are nearest to a vector: exactly, with the help of products in float32.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "integers.h"

namespace hyperpq {

// Rows as integers of so many bits times units, and half of their squared lengths.
struct Centres {
  const int32_t* integers;  // (m, k)
  const double* units;      // (m,)
  const double* half;       // (m,)
  size_t m, k;
  int bits;
};

// The least value of half - product (n,) of rows j, j + n, j + 2 n and so on, of those m.
HYPERPQ_CLONES inline void least_of_strides(const float* half, const float* products, size_t m,
                                            size_t n, float* least) {
  for (size_t j = 0; j < n; ++j) least[j] = half[j] - products[j];
  for (size_t first = n; first < m; first += n) {
    const size_t some = std::min(n, m - first);
    for (size_t j = 0; j < some; ++j) {
      const float value = half[first + j] - products[first + j];
      least[j] = value < least[j] ? value : least[j];
    }
  }
}

// Finds the `count` nearest rows, of those that are as near the first ones.
class NearestRows {
 public:
  NearestRows(const Centres& centres, size_t count)
      : centres_(centres),
        count_(count),
        strides_(std::min(centres.m, std::max(kFewest, kSpare * count))),
        half_(centres.half, centres.half + centres.m) {}

  // Writes their numbers, ascending, for v (k,). The products (m,) of float32 may be off by `error`
  // where half of the squared length is subtracted from them; they may be anything if it is
  // infinite.
  void find(const float* v, const float* products, double error, int64_t* out) {
    list(products, error);
    const auto kth = listed_.begin() + static_cast<std::ptrdiff_t>(count_ - 1);
    std::nth_element(listed_.begin(), kth, listed_.end());
    const double last = kth->value;
    size_t found = 0;
    doubtful_.clear();
    for (const Row& row : listed_) {
      if (row.value < last - 2 * error) {
        out[found++] = row.number;
      } else if (!(row.value > last + 2 * error)) {
        doubtful_.push_back(row);
      }
    }
    if (doubtful_.size() > count_ - found) choose(v, count_ - found);
    for (const Row& row : doubtful_) out[found++] = row.number;
    std::sort(out, out + count_);
  }

 private:
  // With so many strides, at least and for each row, seldom more than a few others are listed.
  static constexpr size_t kFewest = 64, kSpare = 8;

  struct Row {
    double value;
    int64_t number;
    bool operator<(const Row& other) const {
      return value < other.value || (value == other.value && number < other.number);
    }
  };

  // Lists the rows that may be among the nearest: `count` strides have one that is as near as the
  // limit.
  void list(const float* products, double error) {
    constexpr float kNone = std::numeric_limits<float>::infinity();
    float limit = kNone;
    least_.resize(strides_);
    if (strides_ < centres_.m && std::isfinite(error)) {
      least_of_strides(half_.data(), products, centres_.m, strides_, least_.data());
      sorted_ = least_;
      const auto kth = sorted_.begin() + static_cast<std::ptrdiff_t>(count_ - 1);
      std::nth_element(sorted_.begin(), kth, sorted_.end());
      limit = std::nextafter(static_cast<float>(*kth + 2 * error), kNone);
    }
    listed_.clear();
    for (size_t start = 0; start < strides_; ++start) {
      if (limit < kNone && least_[start] > limit) continue;
      for (size_t j = start; j < centres_.m; j += strides_) {
        const float value = half_[j] - products[j];
        // Infinite errors tell nothing of any row, so that its value may be any number.
        if (limit == kNone || value <= limit)
          listed_.push_back({std::isfinite(error) ? value : 0.0, static_cast<int64_t>(j)});
      }
    }
  }

  // Leaves the n nearest of the doubtful rows.
  void choose(const float* v, size_t n) {
    const size_t k = centres_.k;
    wide_.assign(v, v + k);
    integers_.resize(k);
    const double unit = round_row(wide_.data(), k, centres_.bits, integers_.data());
    for (Row& row : doubtful_) {
      const size_t j = static_cast<size_t>(row.number);
      const int64_t sum = row_sum(integers_.data(), centres_.integers + j * k, k);
      row.value = centres_.half[j] - static_cast<double>(sum) * unit * centres_.units[j];
    }
    std::nth_element(doubtful_.begin(), doubtful_.begin() + static_cast<std::ptrdiff_t>(n),
                     doubtful_.end());
    doubtful_.resize(n);
  }

  const Centres centres_;
  const size_t count_, strides_;
  const std::vector<float> half_;
  std::vector<float> least_, sorted_;
  std::vector<Row> listed_, doubtful_;
  std::vector<double> wide_;
  std::vector<int32_t> integers_;
};

}  // namespace hyperpq
