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
//     b = min(255, floor(fl(fl(t - a) * s')))            s' = fl(s (1 - 2^-21)), all in float32
//
// Rounding the difference, s' and the product increases a value by a factor of less than
// (1 + 2^-24)^3 in all, so b <= s (t - a). `unit` is a power of two that keeps t - a within the
// range of float32. Entries that it makes smaller than the least normal float32 are an exception;
// t - a increases by at most 2^-149 then.
//
// **Limit.** Let E be the exact sum of a row's entries and u = 2^-53. fl gives
// S >= E - M u sum |t|, and |t| <= (t - a) + |a|, so with g = M u, B = sum |a|
//
//     S <= sigma   =>   (E - A) (1 - g) <= sigma - A + g B
//     =>   sum b <= s (E - A) + M 2^-149 s <= s (sigma - A' + margin) (1 + 2^-40)
//
// where A' is A as summed in float64 (off by at most g B) and margin = 4 g B + 2 M 2^-149 / unit +
// 1e-300. So a row whose byte sum exceeds that bound, `limit(theta)`, has D > theta and can be
// skipped. A saturated sum of 255 stands for any larger sum, so with a limit of 255 no row can be
// skipped. The distances of the remaining rows are computed exactly, so the result is that of the
// plain scan at every level.
//
// **Scale.** s is chosen so that limit(theta) is 253 when the bytes are computed, which uses the
// whole range of a byte for the values that decide. theta decreases during a search; once the limit
// is below 170, the bytes are computed again.
//
// **Coarse tables.** The byte of an entry does not decrease with the entry, so the byte of the least
// entry of a group of codewords is at most the byte of each. A coarse table has one byte for each
// group of 16 codewords with the same high four bits. Its sums are bounds as well, with the same
// scale and limit, and 16 entries are looked up at once on every processor. Where 256 are not, a
// fine table has the least byte of each two codewords, which makes half of the look-ups. Of each
// four, codes of the fidelity objective leave so many rows that a scan takes up to twice as long;
// others gain a sixth.
//
// **K = 16.** Two codes share a byte. Its coarse table has the bytes of either code by its own four
// bits, and its fine table their saturated sums, so both bound alike, by the sum over all M
// subspaces; a level with coarse tables needs no others then.
class Tables {
 public:
  // table: M x K floats, which the caller keeps alive; no absolute value is above `most`.
  void set(const Level& level, const float* table, size_t M, size_t K, float most) {
    level_ = &level;
    table_ = table;
    M_ = M;
    K_ = K;
    columns_ = K == 16 ? (M + 1) / 2 : M;
    const float* of_16 = table;
    if (K == 256) {
      for (size_t i = 0; i < 4; ++i) {
        minima_[i].resize(M * (128 >> i));
        level.halve(i ? minima_[i - 1].data() : table, minima_[i].size(), minima_[i].data());
      }
      of_16 = minima_[3].data();
    }
    least_.resize(M);
    float eight[8], four[4];
    base_ = 0;
    double magnitude = 0;
    for (size_t m = 0; m < M; ++m) {
      level.halve(of_16 + m * 16, 8, eight);
      level.halve(eight, 4, four);
      least_[m] = std::min(std::min(four[0], four[1]), std::min(four[2], four[3]));
      base_ += least_[m];
      magnitude += std::abs(least_[m]);
    }
    unit_ = most > 1e36f ? 0x1p-24f : 1.0f;
    margin_ = 4 * M * 0x1p-53 * magnitude + 2 * M * 0x1p-149 / unit_ + 1e-300;
    scale_ = coarse_.scale = fine_.scale = 0;  // No bytes are up to date.
  }

  size_t columns() const { return columns_; }

  // Whether a fine table says more than a coarse one.
  bool needs_fine() const { return K_ == 256; }

  // Views of some blocks at `codes`; to be called after `limit` or `rank`.
  View fine(const Blocks& blocks, int limit, size_t next) {
    if (fine_.scale != scale_) fill_fine();
    return view(fine_, blocks, limit, next);
  }
  View coarse(const Blocks& blocks, int limit, size_t next) {
    if (coarse_.scale != scale_) fill_coarse();
    return view(coarse_, blocks, limit, next);
  }

  // Prepares the bytes for `theta` and returns its limit, or -1 if no row can be that near.
  int limit(float theta) {
    const int present = present_limit(theta);
    if (present < 0 || (170 <= present && present < 255)) return present;
    const double slack = slack_of(theta);
    if (slack == kInfinity) return 255;
    set_scale(slack);
    return limit_of(slack);
  }

  // The limit of `theta` for the bytes as they are.
  int present_limit(float theta) const {
    const double slack = slack_of(theta);
    return slack >= 0 ? limit_of(slack) : -1;
  }

  // Prepares bytes whose sums rank rows before a threshold is known: the mean sum is about 253.
  void rank() {
    const size_t step = K_ / 16;
    double sums[4] = {0, 0, 0, 0};
    for (size_t i = 0; i < 16 * M_; i += 4)
      for (size_t j = 0; j < 4; ++j) sums[j] += table_[(i + j) * step];
    set_scale(std::max((sums[0] + sums[1] + sums[2] + sums[3]) / 16 - base_, 0.0) + margin_);
  }

  // Distances of n rows of some blocks; row r of block b has the number 64 b + r.
  void distances(const Blocks& blocks, const uint32_t* rows, size_t n, float* out) const {
    size_t i = 0;
    for (; i + 4 <= n; i += 4) add<4>(blocks, rows + i, out + i);
    for (; i < n; ++i) add<1>(blocks, rows + i, out + i);
  }

 private:
  template <size_t n>
  void add(const Blocks& blocks, const uint32_t* rows, float* out) const {
    const uint8_t* codes[n];
    for (size_t i = 0; i < n; ++i) codes[i] = blocks.at(rows[i] / kBlock) + rows[i] % kBlock;
    double sums[n] = {};
    size_t at = 0;
    if (K_ == 256) {
      const float* entries = table_;
      for (size_t m = 0; m < M_; ++m, at += blocks.stride, entries += 256)
#pragma GCC unroll 4
        for (size_t i = 0; i < n; ++i) sums[i] += entries[codes[i][at]];
    } else {
      for (size_t m = 0; m < M_; ++m)
        for (size_t i = 0; i < n; ++i)
          sums[i] += table_[m * 16 + (codes[i][m / 2 * blocks.stride] >> (m % 2 * 4) & 15)];
    }
    for (size_t i = 0; i < n; ++i) out[i] = distance_of(sums[i]);
  }

  struct Bytes {
    float scale = 0;  // with which they were computed
    std::vector<uint8_t> entries;
    std::vector<uint16_t> order;
  };

  View view(const Bytes& of, const Blocks& blocks, int limit, size_t next) const {
    return {blocks,   of.entries.data(), of.order.data(), columns_, K_ == 16,
            static_cast<uint8_t>(limit), next};
  }

  void set_scale(double slack) {
    scale_ = static_cast<float>(std::min(253 / slack / unit_, 1e37));
  }

  // How far a sum whose distance is `theta` can be above the least one.
  double slack_of(float theta) const { return largest_sum(theta) - base_ + margin_; }

  int limit_of(double slack) const {
    const double limit = slack * unit_ * scale_ * (1 + 0x1p-40);
    return limit < 255 ? static_cast<int>(limit) : 255;
  }

  // Bytes of `rows` rows of entries from subspace m on.
  void quantize(const float* x, size_t rows, size_t width, size_t m, uint8_t* bytes,
                size_t stride) {
    // The factor covers the rounding, see above.
    const float scale = scale_ * (1 - 0x1p-21f);
    level_->quantize({x, rows, width, least_.data() + m, unit_, scale}, bytes, stride,
                     weight_.data() + m);
  }

  void fill_coarse() {
    coarse_.scale = scale_;
    coarse_.entries.assign(columns_ * kCoarse, 0);
    weight_.assign(M_ + 1, 0);
    uint8_t* bytes = coarse_.entries.data();
    if (K_ == 256) {
      quantize(minima_[3].data(), M_, 16, 0, bytes, kCoarse);
    } else {
      for (size_t m = 0; m < M_; ++m)
        quantize(table_ + m * 16, 1, 16, m, bytes + m / 2 * kCoarse + (m % 2 ? 0 : 16), kCoarse);
      for (size_t c = 0; c < columns_; ++c) weight_[c] = weight_[2 * c] + weight_[2 * c + 1];
    }
    rank_columns(coarse_);
  }

  void fill_fine() {
    const size_t width = level_->fine;
    fine_.entries.resize(columns_ * width);
    uint8_t* bytes = fine_.entries.data();
    if (K_ == 256) {
      weight_.resize(M_);
      const float* x = width == 256 ? table_ : minima_[0].data();
      quantize(x, M_, width, 0, bytes, width);
    } else {
      if (coarse_.scale != scale_) fill_coarse();
      for (size_t c = 0; c < columns_; ++c) {
        const uint8_t* high = coarse_.entries.data() + c * kCoarse;
        weight_[c] = 0;
        for (size_t i = 0; i < 256; ++i, ++bytes) {
          *bytes = static_cast<uint8_t>(std::min(255, high[i / 16] + high[16 + i % 16]));
          weight_[c] += *bytes;
        }
      }
    }
    fine_.scale = scale_;
    rank_columns(fine_);
  }

  // Orders columns by the sum of their bytes, the largest first, so that the sums of rows exceed the
  // limit early.
  void rank_columns(Bytes& of) {
    of.order.resize(columns_);
    for (size_t c = 0; c < columns_; ++c) {
      size_t i = c;
      for (; i > 0 && weight_[of.order[i - 1]] < weight_[c]; --i) of.order[i] = of.order[i - 1];
      of.order[i] = static_cast<uint16_t>(c);
    }
  }

  const Level* level_ = nullptr;
  const float* table_ = nullptr;
  size_t M_ = 0, K_ = 0, columns_ = 0;
  double base_ = 0, margin_ = 0;
  float unit_ = 1, scale_ = 0;
  std::vector<float> minima_[4];  // of each 2, 4, 8 and 16 entries, for K = 256
  std::vector<float> least_;      // of each subspace
  Bytes fine_, coarse_;
  std::vector<uint32_t> weight_;
};

}  // namespace hyperpq
