// The scan: each tile of codes is processed by a batch of queries while it is in the cache.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <limits>
#include <thread>
#include <vector>

#include "bound.h"
#include "hits.h"
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

struct Queries {
  const float* tables;  // n x M x K
  size_t n, M, K;

  // Bytes of one row of codes.
  size_t columns() const { return K == 16 ? (M + 1) / 2 : M; }
};

// A run of blocks of one segment.
struct Range {
  const Segment* segment;
  size_t first, last;
};

// Size of the byte tables of a batch of queries, which fit in the second-level cache with a tile.
constexpr size_t kTableBytes = 512 << 10;
// Number of rows from which the first threshold is taken.
constexpr size_t kSample = 256;

template <class Sink>
struct Query {
  Tables tables;
  Sink sink;
};

// Calls visit(row) for each set bit.
template <class Visit>
inline void each_row(uint64_t rows, Visit visit) {
  for (; rows; rows &= rows - 1) visit(static_cast<size_t>(__builtin_ctzll(rows)));
}

// Scans some ranges for a batch of queries.
template <class Sink>
class Scanner {
 public:
  Scanner(const Level& level, size_t columns) : level_(level), columns_(columns) {}

  void scan(std::vector<Query<Sink>>& queries, const std::vector<Range>& ranges) {
    // The threshold decreases most at the start, so the first steps are small.
    size_t step = kTile / 4;
    for (const Range& range : ranges) {
      const Segment& segment = *range.segment;
      for (size_t first = range.first; first < range.last;) {
        const size_t tile_end = (first / kTile + 1) * kTile;
        const size_t last = std::min({first + step, tile_end, range.last});
        // The first query prefetches the next tile for all of them.
        size_t next = tile_end < range.last ? kTile * kBlock * columns_ : 0;
        for (Query<Sink>& query : queries) {
          if (segment.mask) {
            masked(query, segment, first, last);
          } else {
            bounded(query, segment, first, last, next);
          }
          query.sink.settle();
          next = 0;
        }
        first = last;
        step = std::min(2 * step, kTile);
      }
    }
  }

 private:
  // Skips blocks without active rows; the distance of a single active row is computed directly.
  void masked(Query<Sink>& query, const Segment& segment, size_t first, size_t last) {
    for (size_t b = first; b < last;) {
      const uint64_t active = segment.active(b);
      size_t end = b + 1;
      if (active & (active - 1)) {
        while (end < last && segment.mask[end] & (segment.mask[end] - 1)) ++end;
        bounded(query, segment, b, end, 0);
      } else if (active) {
        put(query, segment, b, active);
      }
      b = end;
    }
  }

  // Skips rows by their byte sums; the blocks are of one tile.
  void bounded(Query<Sink>& query, const Segment& segment, size_t first, size_t last, size_t next) {
    const int limit = query.tables.limit(query.sink.theta());
    if (limit < 0) return;
    if (limit == 255) {  // No row would be skipped.
      for (size_t b = first; b < last; ++b) put(query, segment, b, segment.active(b));
      return;
    }
    const View view = query.tables.view(segment.block(first, columns_), segment.stride(first),
                                        last - first, limit, next);
    const size_t found = level_.survivors(view, survivors_);
    for (size_t i = 0; i < found; ++i) {
      const size_t b = first + survivors_.block[i];
      put(query, segment, b, survivors_.rows[i] & segment.active(b));
    }
  }

  void put(Query<Sink>& query, const Segment& segment, size_t b, uint64_t rows) {
    const uint8_t* block = segment.block(b, columns_);
    const size_t stride = segment.stride(b);
    each_row(rows, [&](size_t row) {
      const size_t at = b * kBlock + row;
      query.sink.put(query.tables.distance(block + row, stride),
                     segment.ids ? segment.ids[at] : static_cast<int64_t>(at));
    });
  }

  const Level& level_;
  const size_t columns_;
  Survivors survivors_;
};

// The blocks from `first` to `last`, where those of all segments are numbered consecutively.
inline std::vector<Range> ranges_of(const std::vector<Segment>& segments, size_t first,
                                    size_t last) {
  std::vector<Range> ranges;
  size_t before = 0;
  for (const Segment& segment : segments) {
    const size_t n = segment.n_blocks();
    const size_t from = std::max(first, before), to = std::min(last, before + n);
    if (from < to) ranges.push_back({&segment, from - before, to - before});
    before += n;
  }
  return ranges;
}

// A distance that at least k rows of the ranges do not exceed, taken from a few evenly spaced
// blocks; infinity if those blocks have fewer than k active rows.
inline float first_threshold(const Tables& tables, const std::vector<Range>& ranges, size_t k) {
  constexpr float kNone = std::numeric_limits<float>::infinity();
  size_t total = 0;
  for (const Range& range : ranges) total += range.last - range.first;
  const size_t wanted = std::max(kSample, 2 * k) / kBlock;
  if (8 * wanted > total) return kNone;  // All rows are not many more than a sample.
  thread_local std::vector<float> distances;
  distances.clear();
  size_t before = 0, taken = 0;
  for (const Range& range : ranges) {
    const size_t n = range.last - range.first;
    for (; taken < wanted; ++taken) {
      const size_t at = total * taken / wanted;
      if (at >= before + n) break;
      const size_t b = range.first + at - before;
      const uint8_t* block = range.segment->block(b, tables.columns());
      const size_t stride = range.segment->stride(b);
      each_row(range.segment->active(b),
               [&](size_t row) { distances.push_back(tables.distance(block + row, stride)); });
    }
    before += n;
  }
  if (distances.size() < k) return kNone;
  const auto kth = distances.begin() + static_cast<std::ptrdiff_t>(k - 1);
  std::nth_element(distances.begin(), kth, distances.end());
  return *kth;
}

// Runs work(0) to work(n - 1), the last one in this thread and each other in a new one.
template <class Work>
void in_threads(size_t n, Work work) {
  std::vector<std::exception_ptr> errors(n);
  const auto guarded = [&](size_t i) {
    try {
      work(i);
    } catch (...) {
      errors[i] = std::current_exception();
    }
  };
  std::vector<std::thread> threads;
  size_t started = 0;
  try {
    for (; started + 1 < n; ++started) threads.emplace_back(guarded, started);
  } catch (...) {  // No more threads can be started: this one does the rest.
  }
  for (size_t i = started; i < n; ++i) guarded(i);
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);
}

// How the work is divided: the number of threads, the number of slices of the rows (1 if each
// thread scans all rows for some queries), and the number of queries of a batch.
struct Plan {
  size_t threads, slices, batch;

  Plan(const Queries& queries, const std::vector<Segment>& segments, size_t wanted, size_t k) {
    const size_t columns = queries.columns();
    double bytes = 0;
    size_t blocks = 0;
    for (const Segment& segment : segments) {
      bytes += static_cast<double>(segment.n) * static_cast<double>(columns * queries.n);
      blocks += segment.n_blocks();
    }
    // Starting a thread takes about as long as scanning a million bytes.
    const size_t worth = static_cast<size_t>(1 + bytes / 2e6);
    threads = std::max<size_t>(1, std::min(wanted, worth));
    slices = queries.n < 2 * threads ? std::max<size_t>(1, std::min(threads, blocks / 64)) : 1;
    threads = slices > 1 ? slices : std::max<size_t>(1, std::min(threads, queries.n));
    batch = std::max<size_t>(8, kTableBytes / (columns * 256));
    // Unsorted hits take at most about 256 MiB for a batch.
    batch = std::max<size_t>(1, std::min(batch, (size_t{256} << 20) / (2 * k + 64) / sizeof(Hit)));
  }
};

// Scans all queries. begin(sink, tables, ranges) prepares a sink; end(q, slice, hits) takes its
// sorted hits. With fewer queries than threads, the rows are divided into slices and `end` is
// called once for each slice of a query.
template <class Sink, class Begin, class End>
void scan(const Level& level, const Queries& all, const std::vector<Segment>& segments,
          const Plan& plan, Begin begin, End end) {
  size_t total = 0;
  for (const Segment& segment : segments) total += segment.n_blocks();
  in_threads(plan.threads, [&](size_t thread) {
    const bool split = plan.slices > 1;
    const size_t slice = split ? thread : 0;
    const size_t q0 = split ? 0 : all.n * thread / plan.threads;
    const size_t q1 = split ? all.n : all.n * (thread + 1) / plan.threads;
    const std::vector<Range> ranges =
        ranges_of(segments, total * slice / plan.slices, total * (slice + 1) / plan.slices);
    Scanner<Sink> scanner(level, all.columns());
    std::vector<Query<Sink>> queries;
    for (size_t start = q0; start < q1; start += plan.batch) {
      queries.resize(std::min(plan.batch, q1 - start));
      for (size_t i = 0; i < queries.size(); ++i) {
        queries[i].tables.set(level, all.tables + (start + i) * all.M * all.K, all.M, all.K);
        begin(queries[i].sink, queries[i].tables, ranges);
      }
      scanner.scan(queries, ranges);
      for (size_t i = 0; i < queries.size(); ++i) end(start + i, slice, queries[i].sink.sorted());
    }
  });
}

// The hits of n slices in order, in the vector of the first one.
inline std::vector<Hit>& merged(std::vector<Hit>* slices, size_t n) {
  for (size_t p = 1; p < n; ++p)
    slices[0].insert(slices[0].end(), slices[p].begin(), slices[p].end());
  std::sort(slices[0].begin(), slices[0].end());
  return slices[0];
}

// Finds the k nearest rows of each query: D (n x k) and I (n x k), padded with infinity and -1.
inline void search(const Level& level, const Queries& queries, const std::vector<Segment>& segments,
                   size_t k, size_t threads, float* D, int64_t* I) {
  size_t total = 0;
  for (const Segment& segment : segments) total += segment.n;
  const size_t kept = std::min(k, total);
  const Plan plan(queries, segments, threads, kept);
  const auto write = [&](size_t q, const std::vector<Hit>& hits) {
    for (size_t i = 0; i < k; ++i) {
      D[q * k + i] =
          i < hits.size() ? hits[i].distance : std::numeric_limits<float>::infinity();
      I[q * k + i] = i < hits.size() ? hits[i].id : -1;
    }
  };
  if (kept == 0) {
    for (size_t q = 0; q < queries.n; ++q) write(q, {});
    return;
  }
  std::vector<std::vector<Hit>> found(plan.slices > 1 ? plan.slices * queries.n : 0);
  scan<Nearest>(
      level, queries, segments, plan,
      [&](Nearest& sink, const Tables& tables, const std::vector<Range>& ranges) {
        sink.reset(kept, first_threshold(tables, ranges, kept));
      },
      [&](size_t q, size_t slice, std::vector<Hit>& hits) {
        if (plan.slices > 1) {
          found[q * plan.slices + slice] = hits;
        } else {
          write(q, hits);
        }
      });
  if (plan.slices == 1) return;
  for (size_t q = 0; q < queries.n; ++q) {
    std::vector<Hit>& hits = merged(&found[q * plan.slices], plan.slices);
    if (hits.size() > kept) hits.resize(kept);
    write(q, hits);
  }
}

// Finds all rows at a distance below the radius, in ascending order for each query.
inline std::vector<std::vector<Hit>> range_search(const Level& level, const Queries& queries,
                                                  const std::vector<Segment>& segments,
                                                  float radius, size_t threads) {
  const Plan plan(queries, segments, threads, 1);
  std::vector<std::vector<Hit>> found(plan.slices * queries.n);
  scan<Within>(
      level, queries, segments, plan,
      [&](Within& sink, const Tables&, const std::vector<Range>&) { sink.reset(radius); },
      [&](size_t q, size_t slice, std::vector<Hit>& hits) {
        found[q * plan.slices + slice].assign(hits.begin(), hits.end());
      });
  if (plan.slices == 1) return found;
  std::vector<std::vector<Hit>> whole;
  for (size_t q = 0; q < queries.n; ++q)
    whole.push_back(std::move(merged(&found[q * plan.slices], plan.slices)));
  return whole;
}

}  // namespace hyperpq
