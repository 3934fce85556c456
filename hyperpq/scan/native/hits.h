// What a scan collects: the k best rows, or all within a radius.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "bound.h"

namespace hyperpq {

struct Hit {
  double score;
  int64_t id;
};

// The order of an answer: by score, equal scores by the lower id.
inline bool operator<(const Hit& a, const Hit& b) {
  return a.score < b.score || (a.score == b.score && a.id < b.id);
}

// The k best of all hits put in. Up to 2 k + 64 wait unsorted before the worse half goes, so that
// a hit costs the same however large k is.
class Nearest {
 public:
  void reset(size_t k, double theta) {
    k_ = k;
    theta_ = theta;
    kept_ = 0;
    hits_.clear();
  }

  // No row with a greater score can be among the k best.
  double theta() const { return theta_; }

  void put(double score, int64_t id) {
    if (score > theta_) return;
    hits_.push_back({score, id});
    if (hits_.size() >= 2 * k_ + 64) drop();
  }

  // Lowers theta once enough have come in; called between tiles.
  void settle() {
    if (hits_.size() >= k_ && hits_.size() > kept_ + k_ / 4) drop();
  }

  std::vector<Hit>& sorted() {
    if (hits_.size() > k_) drop();
    std::sort(hits_.begin(), hits_.end());
    return hits_;
  }

 private:
  void drop() {
    std::nth_element(hits_.begin(), hits_.begin() + static_cast<std::ptrdiff_t>(k_ - 1),
                     hits_.end());
    hits_.resize(k_);
    kept_ = k_;
    theta_ = hits_[k_ - 1].score;
  }

  size_t k_ = 0, kept_ = 0;
  double theta_ = kInfinity;
  std::vector<Hit> hits_;
};

// All rows with a score below the radius.
class Within {
 public:
  void reset(double radius) {
    radius_ = radius;
    hits_.clear();
  }

  double theta() const { return radius_; }

  void put(double score, int64_t id) {
    if (score < radius_) hits_.push_back({score, id});
  }

  void settle() {}

  std::vector<Hit>& sorted() {
    std::sort(hits_.begin(), hits_.end());
    return hits_;
  }

 private:
  double radius_ = 0;
  std::vector<Hit> hits_;
};

}  // namespace hyperpq
