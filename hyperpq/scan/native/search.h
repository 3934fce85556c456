// Searches: how the rows and queries are divided among threads, and what is kept.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "hits.h"
#include "level.h"
#include "scanner.h"
#include "threads.h"

namespace hyperpq {

struct Queries {
  const float* tables;  // n x M x K
  size_t n, M, K;
  float most;  // no absolute value is above it

  // Bytes of one row of codes.
  size_t columns() const { return K == 16 ? (M + 1) / 2 : M; }
};

// Size of the byte tables of a batch of queries, which fit in the second-level cache with a tile.
constexpr size_t kTableBytes = 512 << 10;

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

// Makes `query` query number q of a batch.
template <class Sink>
void prepare(Query<Sink>& query, const Level& level, const Queries& all, size_t q) {
  query.tables.set(level, all.tables + q * all.M * all.K, all.M, all.K, all.most);
  query.pause = 0;
  query.done = false;
}

// Scans all queries. begin(scanner, query) prepares a query; end(q, slice, hits) takes its sorted
// hits. With fewer queries than threads, the rows are divided into slices and `end` is
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
    thread_local Scratch scratch;
    thread_local std::vector<Query<Sink>> queries;  // Kept for the same reason.
    Scanner scanner(level, ranges, all.columns(), scratch);
    for (size_t start = q0; start < q1; start += plan.batch) {
      const size_t n = std::min(plan.batch, q1 - start);
      if (queries.size() < n) queries.resize(n);
      for (size_t i = 0; i < n; ++i) {
        prepare(queries[i], level, all, start + i);
        begin(scanner, queries[i]);
      }
      scanner.scan(queries.data(), n);
      for (size_t i = 0; i < n; ++i) {
        if (queries[i].sink.restart()) {
          queries[i].done = false;
          scanner.scan(&queries[i], 1);
        }
        end(start + i, slice, queries[i].sink.sorted());
      }
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

// Writes the hits of a query as k distances and ids, padded with infinity and -1.
inline void write_hits(const std::vector<Hit>& hits, size_t k, float* D, int64_t* I) {
  for (size_t i = 0; i < k; ++i) {
    D[i] = i < hits.size() ? hits[i].distance : std::numeric_limits<float>::infinity();
    I[i] = i < hits.size() ? hits[i].id : -1;
  }
}

// Finds the k nearest rows of each query: D (n x k) and I (n x k), padded with infinity and -1.
inline void search(const Level& level, const Queries& queries, const std::vector<Segment>& segments,
                   size_t k, size_t threads, float* D, int64_t* I) {
  size_t total = 0;
  for (const Segment& segment : segments) total += segment.n;
  const size_t kept = std::min(k, total);
  const Plan plan(queries, segments, threads, kept);
  const auto write = [&](size_t q, const std::vector<Hit>& hits) {
    write_hits(hits, k, D + q * k, I + q * k);
  };
  if (kept == 0) {
    for (size_t q = 0; q < queries.n; ++q) write(q, {});
    return;
  }
  std::vector<std::vector<Hit>> found(plan.slices > 1 ? plan.slices * queries.n : 0);
  scan<Nearest>(
      level, queries, segments, plan,
      [&](Scanner& scanner, Query<Nearest>& query) { scanner.begin(query, kept); },
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
      [&](Scanner&, Query<Within>& query) { query.sink.reset(radius); },
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
