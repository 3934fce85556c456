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

// The cells of each query: `per_query` different numbers, the first one that of the cell where its
// nearest rows probably are.
struct Probes {
  const int64_t* cells;
  size_t per_query, nlist;

  const int64_t* of(size_t q) const { return cells + q * per_query; }
};

// The rows of some cells in runs, and how many they are.
struct Runs {
  std::vector<Range> ranges;
  size_t rows = 0;

  void clear() {
    ranges.clear();
    rows = 0;
  }

  void add(const std::vector<Grouped>& segments, const int64_t* cells, size_t n) {
    for (const Grouped& grouped : segments) add(grouped, cells, n);
  }

  void add(const Grouped& grouped, const int64_t* cells, size_t n) {
    for (size_t i = 0; i < n;) {
      const int64_t first = grouped.starts[cells[i]];
      int64_t last = grouped.starts[cells[i] + 1];
      // Cells that follow each other are one run.
      for (++i; i < n && grouped.starts[cells[i]] == last; ++i) last = grouped.starts[cells[i] + 1];
      if (first < last) add(grouped.segment, static_cast<size_t>(first), static_cast<size_t>(last));
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

// Which queries of a batch have a cell.
class Askers {
 public:
  // Lists n queries from `first` on; of query i the cells from number skipped[i] on.
  void list(const Probes& probes, size_t first, size_t n, const std::vector<size_t>& skipped) {
    ends_.assign(probes.nlist + 1, 0);
    each(probes, first, n, skipped, [&](size_t cell, size_t) { ++ends_[cell + 1]; });
    for (size_t c = 1; c < ends_.size(); ++c) ends_[c] += ends_[c - 1];
    queries_.resize(ends_.back());
    // Where the queries of a cell begin becomes where they end.
    each(probes, first, n, skipped, [&](size_t cell, size_t i) {
      queries_[ends_[cell]++] = static_cast<uint32_t>(i);
    });
  }

  // The queries of a cell, ascending.
  Some of(size_t cell) const {
    const size_t first = cell ? ends_[cell - 1] : 0;
    return {queries_.data() + first, ends_[cell] - first};
  }

 private:
  template <class Visit>
  static void each(const Probes& probes, size_t first, size_t n,
                   const std::vector<size_t>& skipped, Visit visit) {
    for (size_t i = 0; i < n; ++i)
      for (size_t j = skipped[i]; j < probes.per_query; ++j)
        visit(static_cast<size_t>(probes.of(first + i)[j]), i);
  }

  std::vector<size_t> ends_;
  std::vector<uint32_t> queries_;
};

// Rows of the first cell of a query for each result, from which on its nearest rows give a threshold.
constexpr size_t kNearRows = 4;
// Bytes of the tables of the queries that are searched together, at most.
constexpr size_t kTogetherBytes = 8 << 20;

// The search of the cells of some queries, of which a thread keeps what it needs.
template <class Sink>
class CellSearch {
 public:
  // Searches n queries from `first` on, see `scan_cells`.
  template <class Begin, class End>
  void run(const Level& level, const Queries& all, const std::vector<Grouped>& segments,
           const Probes& probes, size_t first, size_t n, Begin begin, End end) {
    if (queries_.size() < n) queries_.resize(n);
    skipped_.resize(n);
    const auto scanner = [&](const Runs& runs) {
      return Scanner(level, runs.ranges, all.columns(), scratch_);
    };
    // The cells of a query but for those that are scanned already.
    const auto scan_rest = [&](size_t i, size_t skipped) {
      runs_.clear();
      runs_.add(segments, probes.of(first + i) + skipped, probes.per_query - skipped);
      scanner(runs_).scan_short(queries_[i]);
    };
    // Cells are loaded once for all queries that have them. That takes longer for each cell of a
    // query, but less in all if at least every second cell is that of one.
    const bool together = !segments.empty() && 2 * n * probes.per_query >= probes.nlist;
    const size_t one = std::min<size_t>(1, probes.per_query);
    for (size_t i = 0; i < n; ++i) {
      prepare(queries_[i], level, all, first + i);
      near_.clear();
      near_.add(segments, probes.of(first + i), one);
      runs_ = near_;
      runs_.add(segments, probes.of(first + i) + one, probes.per_query - one);
      Scanner near = scanner(near_), whole = scanner(runs_);
      skipped_[i] = begin(queries_[i], near, near_.rows, whole, runs_.rows);
      if (!together) scan_rest(i, skipped_[i]);
    }
    if (together) {
      askers_.list(probes, first, n, skipped_);
      for (const Grouped& grouped : segments)
        for (int64_t cell = 0; cell < static_cast<int64_t>(probes.nlist); ++cell) {
          const Some some = askers_.of(static_cast<size_t>(cell));
          if (!some.n) continue;
          runs_.clear();
          runs_.add(grouped, &cell, 1);
          scanner(runs_).scan(queries_.data(), some);
        }
    }
    for (size_t i = 0; i < n; ++i) {
      if (queries_[i].sink.restart()) {
        queries_[i].done = false;
        scan_rest(i, 0);
      }
      end(first + i, queries_[i].sink.sorted());
    }
  }

 private:
  Scratch scratch_;
  std::vector<Query<Sink>> queries_;
  Runs near_, runs_;
  std::vector<size_t> skipped_;  // cells of each query that were scanned before the others
  Askers askers_;
};

// Scans the cells of each query. begin(query, near, near_rows, whole, rows) prepares a query with
// scanners of its first cell and of all its cells, and returns whether it has scanned the first one;
// end(q, hits) takes its sorted hits.
template <class Sink, class Begin, class End>
void scan_cells(const Level& level, const Queries& all, const std::vector<Grouped>& segments,
                const Probes& probes, size_t threads, Begin begin, End end) {
  // A query has few rows to scan: a thread is worth starting for some of them.
  const size_t of = std::max<size_t>(1, std::min(threads, all.n / 4));
  in_threads(of, [&](size_t thread) {
    thread_local CellSearch<Sink> search;
    const size_t most = std::max<size_t>(1, kTogetherBytes / (all.M * all.K * sizeof(float)));
    const size_t last = all.n * (thread + 1) / of;
    for (size_t first = all.n * thread / of, n; first < last; first += n) {
      n = std::min(most, last - first);
      search.run(level, all, segments, probes, first, n, begin, end);
    }
  });
}

// Finds the k nearest rows in the cells of each query, see `search`.
inline void search_in_cells(const Level& level, const Queries& queries,
                            const std::vector<Grouped>& segments, const Probes& probes, size_t k,
                            size_t threads, float* D, int64_t* I) {
  scan_cells<Nearest>(
      level, queries, segments, probes, threads,
      [&](Query<Nearest>& query, Scanner& near, size_t near_rows, Scanner& whole, size_t rows) {
        const size_t kept = std::min(k, rows);
        if (kept == 0) {
          query.sink.reset(1, std::numeric_limits<float>::infinity());
          return false;
        }
        if (near_rows < kNearRows * kept) {
          whole.begin(query, kept);
          return false;
        }
        // A threshold from the nearest rows is lower than one from a sample of all: 5 % of the time.
        near.begin(query, kept);
        near.scan_short(query);
        query.sink.settle();
        query.done = false;
        return true;
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
      [&](Query<Within>& query, Scanner&, size_t, Scanner&, size_t) {
        query.sink.reset(radius);
        return false;
      },
      [&](size_t q, const std::vector<Hit>& hits) { found[q].assign(hits.begin(), hits.end()); });
  return found;
}

}  // namespace hyperpq
