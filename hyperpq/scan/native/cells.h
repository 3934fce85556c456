// Searches of some cells: the rows of a segment are grouped by cell, and each query has its cells.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "search.h"

namespace hyperpq {

// A segment whose rows of cell c are those from starts[c] to starts[c + 1].
struct Grouped {
  Segment segment;
  const int64_t* starts;
};

// The cells of each query, ascending: `per_query` numbers for each of them.
struct Probes {
  const int64_t* cells;
  size_t per_query;
};

// The rows of some cells in all segments, in runs, and how many they are.
struct Runs {
  std::vector<Range> ranges;
  size_t rows = 0;

  void of(const std::vector<Grouped>& segments, const int64_t* cells, size_t n) {
    ranges.clear();
    rows = 0;
    for (const Grouped& grouped : segments) {
      for (size_t i = 0; i < n;) {
        const int64_t first = grouped.starts[cells[i]];
        int64_t last = grouped.starts[cells[i] + 1];
        // Cells that follow each other are one run.
        for (++i; i < n && grouped.starts[cells[i]] == last; ++i)
          last = grouped.starts[cells[i] + 1];
        if (first < last) add(grouped.segment, static_cast<size_t>(first), static_cast<size_t>(last));
      }
    }
  }

 private:
  void add(const Segment& segment, size_t first, size_t last) {
    const size_t behind = last % kBlock;
    ranges.push_back({&segment, first / kBlock, (last + kBlock - 1) / kBlock,
                      ~uint64_t{0} << first % kBlock,
                      behind ? (uint64_t{1} << behind) - 1 : ~uint64_t{0}});
    rows += last - first;
  }
};

// Scans the cells of each query. begin(scanner, query, rows) prepares a query that has so many rows
// to scan; end(q, hits) takes its sorted hits.
template <class Sink, class Begin, class End>
void scan_cells(const Level& level, const Queries& all, const std::vector<Grouped>& segments,
                const Probes& probes, size_t threads, Begin begin, End end) {
  // A query has few rows to scan: a thread is worth starting for some of them.
  const size_t of = std::max<size_t>(1, std::min(threads, all.n / 4));
  in_threads(of, [&](size_t thread) {
    thread_local Scratch scratch;
    thread_local Query<Sink> query;
    thread_local Runs runs;
    for (size_t q = all.n * thread / of; q < all.n * (thread + 1) / of; ++q) {
      runs.of(segments, probes.cells + q * probes.per_query, probes.per_query);
      Scanner scanner(level, runs.ranges, all.columns(), scratch);
      prepare(query, level, all, q);
      begin(scanner, query, runs.rows);
      scanner.scan_short(query);
      if (query.sink.restart()) {
        query.done = false;
        scanner.scan_short(query);
      }
      end(q, query.sink.sorted());
    }
  });
}

// Finds the k nearest rows in the cells of each query, see `search`.
inline void search_in_cells(const Level& level, const Queries& queries,
                            const std::vector<Grouped>& segments, const Probes& probes, size_t k,
                            size_t threads, float* D, int64_t* I) {
  scan_cells<Nearest>(
      level, queries, segments, probes, threads,
      [&](Scanner& scanner, Query<Nearest>& query, size_t rows) {
        if (rows) {
          scanner.begin(query, std::min(k, rows));
        } else {
          query.sink.reset(1, std::numeric_limits<float>::infinity());
        }
      },
      [&](size_t q, const std::vector<Hit>& hits) { write_hits(hits, k, D + q * k, I + q * k); });
}

// Finds all rows at a distance below the radius in the cells of each query, see `range_search`.
inline std::vector<std::vector<Hit>> range_search_in_cells(
    const Level& level, const Queries& queries, const std::vector<Grouped>& segments,
    const Probes& probes, float radius, size_t threads) {
  std::vector<std::vector<Hit>> found(queries.n);
  scan_cells<Within>(
      level, queries, segments, probes, threads,
      [&](Scanner&, Query<Within>& query, size_t) { query.sink.reset(radius); },
      [&](size_t q, const std::vector<Hit>& hits) { found[q].assign(hits.begin(), hits.end()); });
  return found;
}

}  // namespace hyperpq
