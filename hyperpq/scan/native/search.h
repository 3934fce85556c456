// The scan: tiles of blocks, each looked at by a group of queries while it is in the cache.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <thread>
#include <vector>

#include "bound.h"
#include "hits.h"
#include "level.h"

namespace hyperpq {

// Some rows of an index. Tiles of 4,096 rows lie one after another, each column by column; the last
// tile has as many blocks as are needed. So row r of block b of a tile with s bytes a column has
// its code of column c at tile + c * s + 64 * b + r.
struct Part {
  const uint8_t* codes;  // ceil(n / 64) * 64 * columns bytes
  size_t n;
  const int64_t* ids;    // n, or null: 0 to n - 1
  const uint64_t* mask;  // ceil(n / 64) words, bit r of word b for row r of block b; or null: all

  size_t n_blocks() const { return (n + kBlock - 1) / kBlock; }

  // Bytes from column to column in the tile that has block b.
  size_t stride(size_t b) const { return std::min(kTile, n_blocks() - b / kTile * kTile) * kBlock; }

  // Block b in column 0.
  const uint8_t* block(size_t b, size_t columns) const {
    return codes + b / kTile * kTile * kBlock * columns + b % kTile * kBlock;
  }

  // Rows of block b that take part.
  uint64_t alive(size_t b) const {
    const size_t left = n - b * kBlock;
    const uint64_t there = left < kBlock ? (uint64_t{1} << left) - 1 : ~uint64_t{0};
    return mask ? mask[b] & there : there;
  }
};

struct Queries {
  const float* tables;  // n x M x K
  size_t n, M, K;

  // Bytes of a row of codes.
  size_t columns() const { return K == 16 ? (M + 1) / 2 : M; }
};

// A run of blocks of one part.
struct Range {
  const Part* part;
  size_t first, last;
};

// Byte tables of a group of queries that shares each tile: both in the second-level cache.
constexpr size_t kTableBytes = 512 << 10;
// Rows in which the first threshold is looked for.
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

// One group of queries over some ranges.
template <class Sink>
class Scanner {
 public:
  Scanner(const Level& level, size_t columns) : level_(level), columns_(columns) {}

  void scan(std::vector<Query<Sink>>& queries, const std::vector<Range>& ranges) {
    // The threshold falls fastest at the start: small steps there, so that it is soon used.
    size_t step = kTile / 4;
    for (const Range& range : ranges) {
      const Part& part = *range.part;
      for (size_t first = range.first; first < range.last;) {
        const size_t tile_end = (first / kTile + 1) * kTile;
        const size_t last = std::min({first + step, tile_end, range.last});
        // The first query fetches the next tile for all.
        size_t next = tile_end < range.last ? kTile * kBlock * columns_ : 0;
        for (Query<Sink>& query : queries) {
          if (part.mask) {
            masked(query, part, first, last);
          } else {
            bounded(query, part, first, last, next);
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
  // Blocks without a row that takes part are passed over, a single row is scored at once.
  void masked(Query<Sink>& query, const Part& part, size_t first, size_t last) {
    for (size_t b = first; b < last;) {
      const uint64_t alive = part.alive(b);
      size_t end = b + 1;
      if (alive & (alive - 1)) {
        while (end < last && part.mask[end] & (part.mask[end] - 1)) ++end;
        bounded(query, part, b, end, 0);
      } else if (alive) {
        put(query, part, b, alive);
      }
      b = end;
    }
  }

  // Blocks of one tile.
  void bounded(Query<Sink>& query, const Part& part, size_t first, size_t last, size_t next) {
    const int limit = query.tables.limit(query.sink.theta());
    if (limit < 0) return;
    if (limit == 255) {  // Nothing would be left out.
      for (size_t b = first; b < last; ++b) put(query, part, b, part.alive(b));
      return;
    }
    const View view = query.tables.view(part.block(first, columns_), part.stride(first),
                                        last - first, limit, next);
    const size_t found = level_.survivors(view, survivors_);
    for (size_t i = 0; i < found; ++i) {
      const size_t b = first + survivors_.block[i];
      put(query, part, b, survivors_.rows[i] & part.alive(b));
    }
  }

  void put(Query<Sink>& query, const Part& part, size_t b, uint64_t rows) {
    const uint8_t* block = part.block(b, columns_);
    const size_t stride = part.stride(b);
    each_row(rows, [&](size_t row) {
      const size_t at = b * kBlock + row;
      query.sink.put(query.tables.score(block + row, stride),
                     part.ids ? part.ids[at] : static_cast<int64_t>(at));
    });
  }

  const Level& level_;
  const size_t columns_;
  Survivors survivors_;
};

// Blocks from `first` to `last` of all parts one after another.
inline std::vector<Range> ranges_of(const std::vector<Part>& parts, size_t first, size_t last) {
  std::vector<Range> ranges;
  size_t before = 0;
  for (const Part& part : parts) {
    const size_t n = part.n_blocks();
    const size_t from = std::max(first, before), to = std::min(last, before + n);
    if (from < to) ranges.push_back({&part, from - before, to - before});
    before += n;
  }
  return ranges;
}

// A score that at least k rows of the ranges don't exceed, from a few blocks spread over them;
// infinity if those blocks have fewer than k rows that take part.
inline double first_threshold(const Tables& tables, const std::vector<Range>& ranges, size_t k) {
  size_t total = 0;
  for (const Range& range : ranges) total += range.last - range.first;
  const size_t wanted = std::max(kSample, 2 * k) / kBlock;
  if (8 * wanted > total) return kInfinity;  // The whole isn't much more than a sample.
  thread_local std::vector<double> scores;
  scores.clear();
  size_t before = 0, taken = 0;
  for (const Range& range : ranges) {
    const size_t n = range.last - range.first;
    for (; taken < wanted; ++taken) {
      const size_t at = total * taken / wanted;
      if (at >= before + n) break;
      const size_t b = range.first + at - before;
      const uint8_t* block = range.part->block(b, tables.columns());
      const size_t stride = range.part->stride(b);
      each_row(range.part->alive(b),
               [&](size_t row) { scores.push_back(tables.score(block + row, stride)); });
    }
    before += n;
  }
  if (scores.size() < k) return kInfinity;
  const auto kth = scores.begin() + static_cast<std::ptrdiff_t>(k - 1);
  std::nth_element(scores.begin(), kth, scores.end());
  return *kth;
}

// Runs work(0) to work(n - 1), each in a thread of its own but the last, which runs in this one.
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
  } catch (...) {  // The system has no more threads: their work is done here.
  }
  for (size_t i = started; i < n; ++i) guarded(i);
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);
}

// How the work is dealt out: to how many threads, and in how many pieces of the rows.
struct Plan {
  size_t threads, pieces, group;

  Plan(const Queries& queries, const std::vector<Part>& parts, size_t wanted, size_t k) {
    const size_t columns = queries.columns();
    double bytes = 0;
    size_t blocks = 0;
    for (const Part& part : parts) {
      bytes += static_cast<double>(part.n) * static_cast<double>(columns * queries.n);
      blocks += part.n_blocks();
    }
    // A thread takes about as long to start as a million bytes to scan.
    const size_t worth = static_cast<size_t>(1 + bytes / 2e6);
    threads = std::max<size_t>(1, std::min(wanted, worth));
    pieces = queries.n < 2 * threads ? std::max<size_t>(1, std::min(threads, blocks / 64)) : 1;
    threads = pieces > 1 ? pieces : std::max<size_t>(1, std::min(threads, queries.n));
    group = std::max<size_t>(8, kTableBytes / (columns * 256));
    // Hits that wait for their order: at most about 256 MiB for a group.
    group = std::max<size_t>(1, std::min(group, (size_t{256} << 20) / (2 * k + 64) / sizeof(Hit)));
  }
};

// Scans all queries; begin(sink, tables, ranges) makes a sink ready, end(q, piece, hits) takes
// its sorted hits. Pieces of the rows are scanned apart where there are fewer queries than
// threads; `end` then gets the hits of each piece, 0 to pieces - 1.
template <class Sink, class Begin, class End>
void scan(const Level& level, const Queries& all, const std::vector<Part>& parts, const Plan& plan,
          Begin begin, End end) {
  size_t total = 0;
  for (const Part& part : parts) total += part.n_blocks();
  in_threads(plan.threads, [&](size_t thread) {
    const bool split = plan.pieces > 1;
    const size_t piece = split ? thread : 0;
    const size_t q0 = split ? 0 : all.n * thread / plan.threads;
    const size_t q1 = split ? all.n : all.n * (thread + 1) / plan.threads;
    const std::vector<Range> ranges =
        ranges_of(parts, total * piece / plan.pieces, total * (piece + 1) / plan.pieces);
    Scanner<Sink> scanner(level, all.columns());
    std::vector<Query<Sink>> queries;
    for (size_t start = q0; start < q1; start += plan.group) {
      queries.resize(std::min(plan.group, q1 - start));
      for (size_t i = 0; i < queries.size(); ++i) {
        queries[i].tables.set(level, all.tables + (start + i) * all.M * all.K, all.M, all.K);
        begin(queries[i].sink, queries[i].tables, ranges);
      }
      scanner.scan(queries, ranges);
      for (size_t i = 0; i < queries.size(); ++i) end(start + i, piece, queries[i].sink.sorted());
    }
  });
}

// Hits of n pieces in order, in the first piece's place.
inline std::vector<Hit>& merged(std::vector<Hit>* pieces, size_t n) {
  for (size_t p = 1; p < n; ++p)
    pieces[0].insert(pieces[0].end(), pieces[p].begin(), pieces[p].end());
  std::sort(pieces[0].begin(), pieces[0].end());
  return pieces[0];
}

// The k nearest rows of each query: D (n x k) and I (n x k), padded with infinity and -1.
inline void search(const Level& level, const Queries& queries, const std::vector<Part>& parts,
                   size_t k, size_t threads, float* D, int64_t* I) {
  size_t total = 0;
  for (const Part& part : parts) total += part.n;
  const size_t kept = std::min(k, total);
  const Plan plan(queries, parts, threads, kept);
  const auto write = [&](size_t q, const std::vector<Hit>& hits) {
    for (size_t i = 0; i < k; ++i) {
      D[q * k + i] = i < hits.size() ? static_cast<float>(hits[i].score)
                                     : std::numeric_limits<float>::infinity();
      I[q * k + i] = i < hits.size() ? hits[i].id : -1;
    }
  };
  if (kept == 0) {
    for (size_t q = 0; q < queries.n; ++q) write(q, {});
    return;
  }
  std::vector<std::vector<Hit>> found(plan.pieces > 1 ? plan.pieces * queries.n : 0);
  scan<Nearest>(
      level, queries, parts, plan,
      [&](Nearest& sink, const Tables& tables, const std::vector<Range>& ranges) {
        sink.reset(kept, first_threshold(tables, ranges, kept));
      },
      [&](size_t q, size_t piece, std::vector<Hit>& hits) {
        if (plan.pieces > 1) {
          found[q * plan.pieces + piece] = hits;
        } else {
          write(q, hits);
        }
      });
  if (plan.pieces == 1) return;
  for (size_t q = 0; q < queries.n; ++q) {
    std::vector<Hit>& hits = merged(&found[q * plan.pieces], plan.pieces);
    if (hits.size() > kept) hits.resize(kept);
    write(q, hits);
  }
}

// All rows with a score below the radius, of each query in ascending order.
inline std::vector<std::vector<Hit>> range_search(const Level& level, const Queries& queries,
                                                  const std::vector<Part>& parts, double radius,
                                                  size_t threads) {
  const Plan plan(queries, parts, threads, 1);
  std::vector<std::vector<Hit>> found(plan.pieces * queries.n);
  scan<Within>(
      level, queries, parts, plan,
      [&](Within& sink, const Tables&, const std::vector<Range>&) { sink.reset(radius); },
      [&](size_t q, size_t piece, std::vector<Hit>& hits) {
        found[q * plan.pieces + piece].assign(hits.begin(), hits.end());
      });
  if (plan.pieces == 1) return found;
  std::vector<std::vector<Hit>> whole;
  for (size_t q = 0; q < queries.n; ++q)
    whole.push_back(std::move(merged(&found[q * plan.pieces], plan.pieces)));
  return whole;
}

}  // namespace hyperpq
