// Collectors of hits: the k nearest rows, or all rows within a radius.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace hyperpq {

struct Hit {
  float distance;
  int64_t id;
};

// The order of results: by distance as it is returned, ties by the lower id.
inline bool operator<(const Hit& a, const Hit& b) {
  return a.distance < b.distance || (a.distance == b.distance && a.id < b.id);
}

// Keeps the k nearest of all hits. Up to 2 k + 64 hits are kept unsorted before the farther half is
// dropped, so that the cost of a hit does not depend on k.
class Nearest {
 public:
  // theta: a threshold to begin with, which may be too low.
  void reset(size_t k, float theta) {
    k_ = k;
    theta_ = theta;
    kept_ = 0;
    hits_.clear();
  }

  // No row at a greater distance can be among the k nearest.
  float theta() const { return theta_; }

  bool takes(float distance) const { return !(distance > theta_); }

  // Adds a row that it takes.
  void put(float distance, int64_t id) {
    hits_.push_back({distance, id});
    if (hits_.size() >= 2 * k_ + 64) drop();
  }

  // Lowers theta once enough hits were added; called between tiles.
  void settle() {
    if (hits_.size() >= k_ && hits_.size() > kept_ + k_ / 4) drop();
  }

  // Whether fewer than k rows were within the threshold, so that it may have been too low; then
  // prepares another search, without one.
  bool restart() {
    if (hits_.size() >= k_ || std::isinf(theta_)) return false;
    reset(k_, std::numeric_limits<float>::infinity());
    return true;
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
    theta_ = hits_[k_ - 1].distance;
  }

  size_t k_ = 0, kept_ = 0;
  float theta_ = std::numeric_limits<float>::infinity();
  std::vector<Hit> hits_;
};

// Keeps all rows at a distance below the radius.
class Within {
 public:
  void reset(float radius) {
    radius_ = radius;
    hits_.clear();
    // A thread keeps this object: millions of hits of one search are not to stay in memory.
    if (hits_.capacity() > kKept) std::vector<Hit>().swap(hits_);
  }

  float theta() const { return radius_; }

  bool takes(float distance) const { return distance < radius_; }

  void put(float distance, int64_t id) { hits_.push_back({distance, id}); }

  void settle() {}

  bool restart() { return false; }

  std::vector<Hit>& sorted() {
    std::sort(hits_.begin(), hits_.end());
    return hits_;
  }

 private:
  static constexpr size_t kKept = 1 << 16;

  float radius_ = 0;
  std::vector<Hit> hits_;
};

}  // namespace hyperpq
