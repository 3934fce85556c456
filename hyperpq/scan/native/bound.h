// The tables of one query: exact, and as bytes whose sums are lower bounds of the exact sums.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "level.h"

namespace hyperpq {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// A bound of the float64 sums whose distance is `theta` or less: infinity for the largest float32,
// else the point halfway to the next one, which float64 holds exactly. Greater sums are rounded up.
// The point itself is rounded to either of the two, and is taken as one that may matter.
inline double largest_sum(float theta) {
  if (std::isinf(theta)) return theta;
  const float next = std::nextafter(theta, std::numeric_limits<float>::infinity());
  if (std::isinf(next)) return kInfinity;
  return theta + (static_cast<double>(next) - theta) / 2;
}

// The distance of a row whose table entries have the sum `sum`: the nearest finite float32, so that
// infinity stands for nothing else than a missing result.
inline float distance_of(double sum) {
  constexpr double kLargest = std::numeric_limits<float>::max();
  return static_cast<float>(std::min(std::max(sum, -kLargest), kLargest));
}

// The float32 table entries of a row are added in order in float64, S = fl(t[0] + ... + t[M - 1]),
// and its distance is that sum rounded to float32, D = fl32(S). Distances are compared as they are
// returned, in float32. A search needs every row with D <= theta, the k-th smallest distance so
// far. As rounding is monotonic, those are rows with S <= sigma = largest_sum(theta).
//
// **Bytes.** With a[m] the least entry of subspace m and A = sum a[m], every entry is replaced by
//
//     b = min(255, floor(fl(fl(t - a) * s)))            fl(t - a) shrunk by 1 - 2^-22
//
// Rounding to double, rounding to float32 and rounding the product increase a value by a factor of
// less than (1 + 2^-23)^2 in all, so b <= s (t - a). Values below the smallest normal float32 are
// an exception; they increase by at most 2^-149 each. `unit` is a power of two that keeps t - a
// within the range of float32.
//
// **Limit.** Let E be the exact sum of a row's entries and u = 2^-53. fl gives
// S >= E - M u sum |t|, and |t| <= (t - a) + |a|, so with g = M u, B = sum |a|
//
//     S <= sigma   =>   (E - A) (1 - g) <= sigma - A + g B
//     =>   sum b <= s (E - A) + M 2^-149 s <= s (sigma - A' + margin) (1 + 2^-40)
//
// where A' is A as summed in float64 (off by at most g B) and margin = 4 g B + M 2^-149 / unit +
// 1e-300. So a row whose byte sum exceeds that bound, `limit(theta)`, has D > theta and can be
// skipped. A saturated sum of 255 stands for any larger sum, so with a limit of 255 no row can be
// skipped. The distances of the remaining rows are computed exactly, so the result is that of the
// plain scan at every level.
//
// **Scale.** s is chosen so that limit(theta) is 253 when the bytes are computed, which uses the
// whole range of a byte for the values that decide. theta decreases during a search; once the limit
// is below 170, the bytes are computed again.
//
// **K = 16.** Two codes share a byte. The table of a column of bytes therefore has the 256 sums of
// two entries, and the byte tables are computed from those. The levels do not distinguish the
// cases.
class Tables {
 public:
  // table: M x K floats, which the caller keeps alive.
  void set(const Level& level, const float* table, size_t M, size_t K) {
    level_ = &level;
    table_ = table;
    M_ = M;
    nibbles_ = K == 16;
    columns_ = nibbles_ ? (M + 1) / 2 : M;
    above_.resize(columns_ * 256);
    bytes_.resize(columns_ * 256);
    float most = 0;
    base_ = 0;
    double magnitude = 0;
    least_.resize(M);
    for (size_t m = 0; m < M; ++m) {
      float low[16], high[16];
      for (size_t j = 0; j < 16; ++j) low[j] = high[j] = table[m * K + j];
      for (size_t i = m * K + 16; i < m * K + K; i += 16)
        for (size_t j = 0; j < 16; ++j) {
          low[j] = table[i + j] < low[j] ? table[i + j] : low[j];
          high[j] = table[i + j] > high[j] ? table[i + j] : high[j];
        }
      for (size_t j = 1; j < 16; ++j) {
        low[0] = low[j] < low[0] ? low[j] : low[0];
        high[0] = high[j] > high[0] ? high[j] : high[0];
      }
      least_[m] = low[0];
      base_ += low[0];
      magnitude += std::abs(static_cast<double>(low[0]));
      const float larger = std::max(std::abs(low[0]), std::abs(high[0]));
      most = most < larger ? larger : most;
    }
    unit_ = most > 1e36f ? 0x1p-24 : 1.0;
    margin_ = 4 * M * 0x1p-53 * magnitude + M * 0x1p-149 / unit_ + 1e-300;
    if (!nibbles_) {
      for (size_t m = 0; m < M; ++m)
        level.lift(table + m * 256, least_[m], unit_, above_.data() + m * 256);
    } else {
      for (size_t c = 0; c < columns_; ++c) pair(c);
    }
    scale_ = 0;
  }

  size_t columns() const { return columns_; }

  // The view of some blocks at `codes`; to be called after `limit`.
  View view(const uint8_t* codes, size_t stride, size_t n_blocks, int limit, size_t next) const {
    return {codes,
            stride,
            n_blocks,
            bytes_.data(),
            order_.data(),
            order_.size(),
            static_cast<uint8_t>(limit),
            next};
  }

  // Prepares the bytes for `theta` and returns its limit, or -1 if no row can be that near.
  int limit(float theta) {
    const double sigma = largest_sum(theta);
    if (sigma == kInfinity) return 255;
    const double slack = sigma - base_ + margin_;
    if (!(slack >= 0)) return -1;
    if (scale_ == 0 || limit_of(slack) < 170) {
      const float scale = static_cast<float>(std::min(253 / slack / unit_, 1e37));
      if (scale != scale_) {
        scale_ = scale;
        level_->quantize(above_.data(), above_.size(), scale, bytes_.data());
        rank_columns();
      }
    }
    return limit_of(slack);
  }

  // Distance of a row whose code in column c is codes[c * stride].
  float distance(const uint8_t* codes, size_t stride) const {
    if (!nibbles_) {
      double sum = table_[codes[0]];
      for (size_t m = 1; m < M_; ++m) sum += table_[m * 256 + codes[m * stride]];
      return distance_of(sum);
    }
    double sum = table_[codes[0] & 15];
    for (size_t m = 1; m < M_; ++m)
      sum += table_[m * 16 + (codes[m / 2 * stride] >> (m % 2 * 4) & 15)];
    return distance_of(sum);
  }

 private:
  int limit_of(double slack) const {
    const double limit = slack * unit_ * scale_ * (1 + 0x1p-40);
    return limit < 255 ? static_cast<int>(limit) : 255;
  }

  // Orders columns by their mean entry, the largest first, so that sums exceed the limit early.
  void rank_columns() {
    weight_.resize(columns_);
    order_.resize(columns_);
    for (size_t c = 0; c < columns_; ++c) {
      uint32_t sum = 0;
      for (size_t i = 0; i < 256; ++i) sum += bytes_[c * 256 + i];
      weight_[c] = sum;
      order_[c] = static_cast<uint16_t>(c);
    }
    std::sort(order_.begin(), order_.end(), [this](uint16_t a, uint16_t b) {
      return weight_[a] > weight_[b] || (weight_[a] == weight_[b] && a < b);
    });
  }

  void pair(size_t c) {
    const float* first = table_ + 2 * c * 16;
    const float* second = 2 * c + 1 < M_ ? first + 16 : nullptr;
    for (size_t i = 0; i < 256; ++i) {
      double sum = static_cast<double>(first[i & 15]) - least_[2 * c];
      if (second) sum += static_cast<double>(second[i >> 4]) - least_[2 * c + 1];
      above_[c * 256 + i] = static_cast<float>(sum * (unit_ * (1 - 0x1p-22)));
    }
  }

  const Level* level_ = nullptr;
  const float* table_ = nullptr;
  size_t M_ = 0, columns_ = 0;
  bool nibbles_ = false;
  double base_ = 0, margin_ = 0, unit_ = 1;
  float scale_ = 0;
  std::vector<double> least_;
  std::vector<float> above_;
  std::vector<uint8_t> bytes_;
  std::vector<uint32_t> weight_;
  std::vector<uint16_t> order_;
};

}  // namespace hyperpq
