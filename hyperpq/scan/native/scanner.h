// Scans the rows of some segments for a batch of queries.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "bound.h"
#include "level.h"

namespace hyperpq {

// A segment of the rows of an index. The codes are stored in consecutive tiles of 4,096 rows, each
// column by column; the last tile has as many blocks as its rows need. In a tile with s bytes a
// column, the code of row r of block b in column c is at tile + c * s + 64 * b + r.
struct Segment {
  const uint8_t* codes;  // ceil(n / 64) * 64 * columns bytes
  size_t n;
  const int64_t* ids;    // n ids; null: 0 to n - 1
  const uint64_t* mask;  // ceil(n / 64) words, bit r of word b for row r of block b; null: all

  size_t n_blocks() const { return (n + kBlock - 1) / kBlock; }

  // Bytes from one column to the next in the tile of block b.
  size_t stride(size_t b) const { return std::min(kTile, n_blocks() - b / kTile * kTile) * kBlock; }

  // Codes of block b in column 0.
  const uint8_t* block(size_t b, size_t columns) const {
    return codes + b / kTile * kTile * kBlock * columns + b % kTile * kBlock;
  }

  // The rows of block b that are searched, as bits.
  uint64_t active(size_t b) const {
    const size_t left = n - b * kBlock;
    const uint64_t there = left < kBlock ? (uint64_t{1} << left) - 1 : ~uint64_t{0};
    return mask ? mask[b] & there : there;
  }
};

// A run of blocks of one segment, perhaps without some rows of its first and last block.
struct Range {
  const Segment* segment;
  size_t first, last;
  uint64_t head = ~uint64_t{0}, tail = ~uint64_t{0};  // the rows of these that are in it

  // The rows of block b that are searched, as bits.
  uint64_t active(size_t b) const {
    uint64_t rows = segment->active(b);
    if (b == first) rows &= head;
    if (b + 1 == last) rows &= tail;
    return rows;
  }
};

// Blocks up to which a collection is scanned as its own sample.
constexpr size_t kWholeBlocks = 256;
// Blocks of a sample, at least, and rows of it for each result that is searched.
constexpr size_t kSampleBlocks = 16, kSampleRows = 16;
// Rows of a block up to which their distances are computed without a fine table.
constexpr size_t kFewRows = 8;
// Runs of blocks without coarse tables, after one in which these left nearly all blocks.
constexpr unsigned kPause = 8;

template <class Sink>
struct Query {
  Tables tables;
  Sink sink;
  unsigned pause = 0;  // runs of blocks to come without coarse tables
  bool done = false;   // whether all rows were scanned already
};

// Some of the queries of a batch.
struct Some {
  const uint32_t* queries;
  size_t n;
};

// The number of set bits; without an instruction for it compilers call a function.
inline size_t count_rows(uint64_t rows) {
  rows -= rows >> 1 & 0x5555555555555555;
  rows = (rows & 0x3333333333333333) + (rows >> 2 & 0x3333333333333333);
  return ((rows + (rows >> 4)) & 0x0f0f0f0f0f0f0f0f) * 0x0101010101010101 >> 56;
}

// Lists first + i for each set bit i, and returns how many these are. It writes in groups of eight,
// as a branch for each bit would often be mispredicted.
constexpr size_t kGroup = 8;
inline size_t list_rows(uint64_t rows, size_t first, uint32_t* to) {
  const size_t n = count_rows(rows);
  for (size_t i = 0; i < n; i += kGroup)
    for (size_t j = i; j < i + kGroup; ++j, rows &= rows - 1)
      to[j] = static_cast<uint32_t>(first) +
              static_cast<uint32_t>(__builtin_ctzll(rows | uint64_t{1} << 63));
  return n;
}

// A block of a range.
struct Place {
  const Range* range;
  size_t b;

  const Segment& segment() const { return *range->segment; }
  uint64_t active() const { return range->active(b); }
};

// Some blocks, at most kTile, in tiles with one stride: a run of one tile, or any that are listed.
struct Run {
  Place first;          // of a run
  const Place* places;  // of each block; null for a run
  size_t n;
  Blocks blocks;

  Place at(size_t i) const { return places ? places[i] : Place{first.range, first.b + i}; }
};

// What a scan writes to. It is kept from one scan to the next in a thread: to allocate it takes as
// long as to scan a thousand rows.
struct Scratch {
  Survivors survivors;
  std::vector<Place> sampled, places;  // blocks, some of the rows and all of some cells
  const uint8_t* listed[kTile];       // column 0 of each
  std::vector<uint8_t> sums;          // of their rows
  std::vector<uint64_t> rows, near;   // those that are active, and those with small sums
  std::vector<float> distances;
  uint32_t due[kTile * kBlock + kGroup];  // rows of a run whose distances are due
  float found[kTile * kBlock];           // their distances
};

class Scanner {
 public:
  Scanner(const Level& level, const std::vector<Range>& ranges, size_t columns, Scratch& scratch)
      : level_(level), ranges_(ranges), columns_(columns), scratch_(scratch) {
    for (const Range& range : ranges) total_ += range.last - range.first;
  }

  // Scans all rows for n queries.
  template <class Sink>
  void scan(Query<Sink>* queries, size_t n) {
    // The threshold decreases most at the start, so the first steps are small.
    size_t step = kTile / 16;
    for (const Range& range : ranges_) {
      for (size_t first = range.first; first < range.last;) {
        const size_t tile_end = (first / kTile + 1) * kTile;
        const size_t last = std::min({first + step, tile_end, range.last});
        // The first query prefetches the next tile for all of them.
        size_t next = tile_end < range.last ? kTile * kBlock * columns_ : 0;
        for (size_t q = 0; q < n; ++q) {
          if (queries[q].done) continue;
          scan(queries[q], range, first, last, next);
          next = 0;
        }
        first = last;
        step = std::min(2 * step, kTile);
      }
    }
  }

  // Scans all rows for some of the queries, where ranges are short.
  template <class Sink>
  void scan(Query<Sink>* queries, Some some) {
    for (const Range& range : ranges_)
      for (size_t first = range.first; first < range.last;) {
        const size_t last = std::min((first / kTile + 1) * kTile, range.last);
        for (size_t i = 0; i < some.n; ++i) {
          Query<Sink>& query = queries[some.queries[i]];
          if (!query.done) scan(query, range, first, last, 0);
        }
        first = last;
      }
  }

  // Scans all rows for one query where ranges are short: as many blocks at a time, of several ranges.
  // So they are waited for together, as they lie anywhere in memory.
  template <class Sink>
  void scan_short(Query<Sink>& query) {
    if (query.done) return;
    std::vector<Place>& places = scratch_.places;
    places.clear();
    for (const Range& range : ranges_)
      for (size_t b = range.first; b < range.last; ++b)
        if (!range.segment->mask || range.active(b)) places.push_back({&range, b});
    size_t step = kTile / 16;
    for (size_t i = 0; i < places.size();) {
      const Run some = listed(places, i, step);
      bounded(query, some, 0);
      query.sink.settle();
      i += some.n;
      step = std::min(2 * step, kTile);
    }
  }

  // Begins the search of the k nearest rows of a query, and ends it if all rows were sampled and
  // their sums need not be computed again.
  template <class Sink>
  void begin(Query<Sink>& query, size_t k) {
    const float theta = first_threshold(query.tables, k);
    query.sink.reset(k, theta);
    if (sampled_.size() < total_) return;
    const int limit = query.tables.present_limit(theta);
    if (limit == 255) return;
    query.done = true;
    count(static_cast<size_t>(limit), 1);
    each_near_run(SIZE_MAX, [&](const Run& run) {
      put_noted(query, run);
      return size_t{0};
    });
  }

 private:
  // The blocks of a range from `first` to `last`, which are of one tile.
  Run run(const Range& range, size_t first, size_t last) const {
    const Segment& segment = *range.segment;
    return {{&range, first},
            nullptr,
            last - first,
            {segment.block(first, columns_), nullptr, segment.stride(first)}};
  }

  // Places from number `first` on, at most `most`, whose tiles have one stride.
  Run listed(const std::vector<Place>& places, size_t first, size_t most) {
    const size_t stride = places[first].segment().stride(places[first].b);
    const size_t last = std::min(places.size(), first + most);
    size_t i = first;
    for (; i < last && places[i].segment().stride(places[i].b) == stride; ++i)
      scratch_.listed[i - first] = places[i].segment().block(places[i].b, columns_);
    return {{}, &places[first], i - first, {nullptr, scratch_.listed, stride}};
  }

  // A threshold for the k nearest rows: a distance that probably k rows do not exceed; infinity if
  // there is no telling. A few blocks are sampled evenly, or all of a few blocks. Their rows are
  // ranked by sums of bytes, and only the first ones get their distances.
  float first_threshold(Tables& tables, size_t k) {
    constexpr float kNone = std::numeric_limits<float>::infinity();
    const size_t some = std::max(kSampleBlocks, k * kSampleRows / kBlock);
    const size_t taken = total_ <= kWholeBlocks ? total_ : std::min(some, total_ / 4);
    // Of the k nearest rows this many are expected in the sample, and seldom as many as `nth`.
    const double expected = static_cast<double>(k * taken) / static_cast<double>(total_);
    const size_t nth =
        std::min(k, static_cast<size_t>(expected + 2.5 * std::sqrt(expected) + 2.5));
    // Sums of bytes rank rows nearly as their distances do.
    const size_t wanted = (level_.fine == 256 ? 1 : 2) * nth + nth / 2 + 8;
    tables.rank();
    const size_t active = sample(tables, taken);
    if (active < wanted || active * total_ < 2 * k * taken) return kNone;
    // The least sum that enough rows of every `step`-th block do not exceed, by bisection.
    const size_t step = std::max<size_t>(1, taken / 32);
    size_t cut = 0;
    for (size_t bit = 128; bit; bit /= 2)
      if (count(cut + bit - 1, step) * step < wanted) cut += bit;
    while (count(cut, 1) < nth && cut < 255) cut = std::min<size_t>(255, cut + 1 + cut / 8);
    distances_.clear();
    each_near_run(2 * wanted, [&](const Run& run) {
      const size_t before = distances_.size();
      distances_.resize(before + due_);
      get_noted(tables, run, distances_.data() + before);
      return distances_.size();
    });
    const auto kth = distances_.begin() + static_cast<std::ptrdiff_t>(nth - 1);
    std::nth_element(distances_.begin(), kth, distances_.end());
    return *kth;
  }

  // The number of active rows of every `step`-th sampled block whose sums are at most `cut`; `near_`
  // has their bits.
  size_t count(size_t cut, size_t step) {
    const size_t n = (sampled_.size() + step - 1) / step;
    near_.resize(sampled_.size());
    return level_.at_most(sums_.data(), n, step, static_cast<uint8_t>(cut), rows_.data(),
                          near_.data());
  }

  // Notes the near rows of the sampled blocks, some at a time, and calls visit(run) for these, which
  // returns how many rows it has seen. Ends where these are `most`.
  template <class Visit>
  void each_near_run(size_t most, Visit visit) {
    size_t seen = 0;
    for (size_t i = 0; i < sampled_.size() && seen < most;) {
      const Run run = listed(sampled_, i, kTile);
      for (size_t j = 0; j < run.n && seen + due_ < most; ++j)
        if (near_[i + j]) note(j, near_[i + j]);
      seen = visit(run);
      i += run.n;
    }
  }

  // Sums of bytes of the rows of some blocks, evenly taken. Returns how many of these are active.
  size_t sample(Tables& tables, size_t taken) {
    sampled_.resize(taken);
    rows_.resize(taken);
    sums_.resize(taken * kBlock);
    size_t before = 0, i = 0, active = 0;
    for (const Range& range : ranges_) {
      const size_t n = range.last - range.first;
      for (; i < taken && total_ * i / taken < before + n; ++i) {
        const size_t b = range.first + total_ * i / taken - before;
        sampled_[i] = {&range, b};
        rows_[i] = range.active(b);
        active += rows_[i] == ~uint64_t{0} ? kBlock : count_rows(rows_[i]);
      }
      before += n;
    }
    const bool is_fine = tables.needs_fine() || !level_.coarse_survivors;
    for (i = 0; i < taken;) {
      const Run run = listed(sampled_, i, kTile);
      survivors_.list(run.n);
      if (is_fine) {
        level_.survivors(tables.fine(run.blocks, 255, 0), run.n, survivors_);
      } else {
        level_.coarse_survivors(tables.coarse(run.blocks, 255, 0), run.n, survivors_);
      }
      std::copy(survivors_.sums, survivors_.sums + run.n * kBlock, sums_.data() + i * kBlock);
      i += run.n;
    }
    return active;
  }

  // Scans the blocks of a range from `first` to `last`, which are of one tile.
  template <class Sink>
  void scan(Query<Sink>& query, const Range& range, size_t first, size_t last, size_t next) {
    if (range.segment->mask) {
      masked(query, range, first, last);
    } else {
      bounded(query, run(range, first, last), next);
    }
    query.sink.settle();
  }

  // Skips blocks without active rows; the distance of a single active row is computed directly.
  template <class Sink>
  void masked(Query<Sink>& query, const Range& range, size_t first, size_t last) {
    const Segment& segment = *range.segment;
    for (size_t b = first; b < last;) {
      const uint64_t active = range.active(b);
      size_t end = b + 1;
      if (active & (active - 1)) {
        while (end < last && segment.mask[end] & (segment.mask[end] - 1)) ++end;
        bounded(query, run(range, b, end), 0);
      } else if (active) {
        note(0, active);
        put_noted(query, run(range, b, end));
      }
      b = end;
    }
  }

  // Skips rows by their byte sums.
  template <class Sink>
  void bounded(Query<Sink>& query, const Run& run, size_t next) {
    const int limit = query.tables.limit(query.sink.theta());
    if (limit < 0) return;
    if (limit == 255) {  // No row would be skipped.
      for (size_t b = 0; b < run.n; ++b) note(b, run.at(b).active());
      put_noted(query, run);
      return;
    }
    survivors_.list(run.n);
    size_t active = run.n;
    if (level_.coarse_survivors && query.pause) {
      --query.pause;
    } else if (level_.coarse_survivors) {
      const View view = query.tables.coarse(run.blocks, limit, next);
      const size_t found = level_.coarse_survivors(view, run.n, survivors_);
      active = note_few(query.tables, run, found);
      if (active > run.n - run.n / 8) query.pause = kPause;
      next = 0;
    }
    if (active) {
      const View view = query.tables.fine(run.blocks, limit, next);
      const size_t found = level_.survivors(view, active, survivors_);
      for (size_t i = 0; i < found; ++i) {
        const size_t b = survivors_.block[i];
        note(b, survivors_.rows[i] & run.at(b).active());
      }
    }
    put_noted(query, run);
  }

  // Notes the rows of blocks that have few of them left, or of all if a fine table would say no more.
  // Lists the other blocks, and returns how many these are.
  size_t note_few(const Tables& tables, const Run& run, size_t found) {
    const size_t few = tables.needs_fine() ? kFewRows : kBlock;
    size_t others = 0;
    for (size_t i = 0; i < found; ++i) {
      const uint32_t b = survivors_.block[i];
      if (count_rows(survivors_.rows[i]) > few) {
        survivors_.block[others++] = b;
      } else {
        note(b, survivors_.rows[i] & run.at(b).active());
      }
    }
    return others;
  }

  // Distances are due of these rows of the b-th block of a run.
  void note(size_t b, uint64_t rows) {
    due_ += list_rows(rows, b * kBlock, scratch_.due + due_);
  }

  // The distances of the rows that are due.
  void get_noted(const Tables& tables, const Run& run, float* out) {
    tables.distances(run.blocks, scratch_.due, due_, out);
    due_ = 0;
  }

  template <class Sink>
  void put_noted(Query<Sink>& query, const Run& run) {
    const size_t n = due_;
    get_noted(query.tables, run, scratch_.found);
    for (size_t i = 0; i < n; ++i) {
      // The ids of other rows are not loaded: they lie anywhere in memory.
      if (!query.sink.takes(scratch_.found[i])) continue;
      const uint32_t row = scratch_.due[i];
      const Place place = run.at(row / kBlock);
      const size_t at = place.b * kBlock + row % kBlock;
      const int64_t* ids = place.segment().ids;
      query.sink.put(scratch_.found[i], ids ? ids[at] : static_cast<int64_t>(at));
    }
  }

  const Level& level_;
  const std::vector<Range>& ranges_;
  const size_t columns_;
  Scratch& scratch_;
  Survivors& survivors_ = scratch_.survivors;
  std::vector<Place>& sampled_ = scratch_.sampled;
  std::vector<uint8_t>& sums_ = scratch_.sums;
  std::vector<uint64_t>&rows_ = scratch_.rows, &near_ = scratch_.near;
  std::vector<float>& distances_ = scratch_.distances;
  size_t total_ = 0;  // blocks
  size_t due_ = 0;    // rows
};

}  // namespace hyperpq
