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

// Rows whose values are looked at together.
constexpr size_t kTogether = 16;

// Whether any of the rows of each block of m values of half - product is within the limit.
HYPERPQ_CLONES inline void within(const float* half, const float* products, size_t m, float limit,
                                  uint8_t* any) {
  size_t b = 0;
  for (; (b + 1) * kTogether <= m; ++b) {
    int found = 0;
    for (size_t j = b * kTogether; j < (b + 1) * kTogether; ++j)
      found += half[j] - products[j] <= limit;
    any[b] = found > 0;
  }
  if (b * kTogether < m) any[b] = 1;
}

// Finds the `count` nearest rows, of those that are as near the first ones.
class NearestRows {
 public:
  NearestRows(const Centres& centres, size_t count)
      : centres_(centres),
        count_(count),
        strides_(std::min(centres.m, std::max(kFewest, kSpare * count))),
        half_(centres.half, centres.half + centres.m) {}

  // Writes their numbers for v (k,): that of the nearest row, then the others, ascending. The products (m,) of float32 may be off by `error`
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
    const int64_t first = nearest(v, error);
    int64_t* const at = std::lower_bound(out, out + count_, first);
    std::rotate(out, at, at + 1);
  }

 private:
  // With so many strides, at least and for each row, seldom more than a few others are listed.
  static constexpr size_t kFewest = 64, kSpare = 2;

  struct Row {
    double value;
    int64_t number;
    bool operator<(const Row& other) const {
      return value < other.value || (value == other.value && number < other.number);
    }
  };

  // The nearest one of the rows that are listed.
  int64_t nearest(const float* v, double error) {
    double least = std::min_element(listed_.begin(), listed_.end())->value;
    doubtful_.clear();
    for (const Row& row : listed_)
      if (!(row.value > least + 2 * error)) doubtful_.push_back(row);
    if (doubtful_.size() > 1) choose(v, 1);
    return doubtful_[0].number;
  }

  // Lists the rows that may be among the nearest: `count` strides have one that is as near as the
  // limit.
  void list(const float* products, double error) {
    constexpr float kNone = std::numeric_limits<float>::infinity();
    float limit = kNone;
    least_.resize(strides_);
    if (strides_ < centres_.m && std::isfinite(error)) {
      least_of_strides(half_.data(), products, centres_.m, strides_, least_.data());
      const auto kth = least_.begin() + static_cast<std::ptrdiff_t>(count_ - 1);
      std::nth_element(least_.begin(), kth, least_.end());
      limit = std::nextafter(static_cast<float>(*kth + 2 * error), kNone);
    }
    listed_.clear();
    if (limit == kNone) {  // The products tell nothing of any row if their errors are infinite.
      for (size_t j = 0; j < centres_.m; ++j)
        listed_.push_back({std::isfinite(error) ? half_[j] - products[j] : 0.0,
                           static_cast<int64_t>(j)});
      return;
    }
    any_.resize((centres_.m + kTogether - 1) / kTogether);
    within(half_.data(), products, centres_.m, limit, any_.data());
    for (size_t b = 0; b < any_.size(); ++b) {
      if (!any_[b]) continue;
      const size_t end = std::min((b + 1) * kTogether, centres_.m);
      for (size_t j = b * kTogether; j < end; ++j) {
        const float value = half_[j] - products[j];
        if (value <= limit) listed_.push_back({value, static_cast<int64_t>(j)});
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
  std::vector<float> least_;
  std::vector<uint8_t> any_;
  std::vector<Row> listed_, doubtful_;
  std::vector<double> wide_;
  std::vector<int32_t> integers_;
};

}  // namespace hyperpq
