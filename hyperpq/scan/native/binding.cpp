// The Python module: checks of the arguments that memory safety needs, and no other logic.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "cells.h"
#include "compare.h"
#include "levels.h"
#include "search.h"

namespace py = pybind11;
using namespace hyperpq;

namespace {

template <class T>
using Array = py::array_t<T, py::array::c_style>;

// Tiled codes, n, ids or None, words of a mask or None.
using SegmentArrays = std::tuple<Array<uint8_t>, size_t, std::optional<Array<int64_t>>,
                                 std::optional<Array<uint64_t>>>;

void require(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(what);
}

const Level& level_named(const std::string& name) {
  for (const Level& level : kLevels)
    if (name == level.name && level.runs_here()) return level;
  throw std::invalid_argument("level " + name + " does not run on this processor");
}

Queries queries_of(const Array<float>& tables, const Level& level) {
  require(tables.ndim() == 3, "tables must have shape (nq, M, K)");
  const uint32_t bits = level.magnitude(tables.data(), static_cast<size_t>(tables.size()));
  float most;
  std::memcpy(&most, &bits, sizeof most);
  const Queries queries{tables.data(), static_cast<size_t>(tables.shape(0)),
                        static_cast<size_t>(tables.shape(1)), static_cast<size_t>(tables.shape(2)),
                        most};
  require(queries.K == 16 || queries.K == 256, "K must be 16 or 256");
  require(queries.M >= 1 && queries.M <= 1024, "M must be 1 to 1024");
  require(std::isfinite(queries.most), "tables must be finite");
  return queries;
}

std::vector<Segment> segments_of(const std::vector<SegmentArrays>& arrays, const Queries& queries) {
  std::vector<Segment> segments;
  for (const auto& [codes, n, ids, mask] : arrays) {
    const Segment segment{codes.data(), n, ids ? ids->data() : nullptr,
                          mask ? mask->data() : nullptr};
    require(static_cast<size_t>(codes.size()) == segment.n_blocks() * queries.columns() * kBlock,
            "codes must have ceil(n / 64) * 64 * code_size bytes");
    require(!ids || static_cast<size_t>(ids->size()) == n, "ids must have shape (n,)");
    require(!mask || static_cast<size_t>(mask->size()) == segment.n_blocks(),
            "mask must have shape (ceil(n / 64),)");
    if (n) segments.push_back(segment);
  }
  return segments;
}

py::tuple search_segments(const Array<float>& tables, const std::vector<SegmentArrays>& arrays,
                          size_t k, size_t threads, const std::string& level) {
  const Level& chosen = level_named(level);
  const Queries queries = queries_of(tables, chosen);
  const std::vector<Segment> segments = segments_of(arrays, queries);
  require(k >= 1 && threads >= 1, "k and threads must be at least 1");
  py::array_t<float> D({queries.n, k});
  py::array_t<int64_t> I({queries.n, k});
  float* distances = D.mutable_data();
  int64_t* ids = I.mutable_data();
  {
    py::gil_scoped_release released;
    search(chosen, queries, segments, k, threads, distances, ids);
  }
  return py::make_tuple(D, I);
}

py::tuple arrays_of(const std::vector<std::vector<Hit>>& found) {
  const size_t n = found.size();
  py::array_t<int64_t> limits(static_cast<py::ssize_t>(n + 1));
  int64_t* lims = limits.mutable_data();
  lims[0] = 0;
  for (size_t q = 0; q < n; ++q) lims[q + 1] = lims[q] + static_cast<int64_t>(found[q].size());
  py::array_t<float> D(static_cast<py::ssize_t>(lims[n]));
  py::array_t<int64_t> I(static_cast<py::ssize_t>(lims[n]));
  float* distances = D.mutable_data();
  int64_t* ids = I.mutable_data();
  for (const std::vector<Hit>& hits : found)
    for (const Hit& hit : hits) {
      *distances++ = hit.distance;
      *ids++ = hit.id;
    }
  return py::make_tuple(limits, D, I);
}

py::tuple range_search_segments(const Array<float>& tables,
                                const std::vector<SegmentArrays>& arrays, float radius,
                                size_t threads, const std::string& level) {
  const Level& chosen = level_named(level);
  const Queries queries = queries_of(tables, chosen);
  const std::vector<Segment> segments = segments_of(arrays, queries);
  require(threads >= 1, "threads must be at least 1");
  std::vector<std::vector<Hit>> found;
  {
    py::gil_scoped_release released;
    found = range_search(chosen, queries, segments, radius, threads);
  }
  return arrays_of(found);
}

// The different ones of some cells, of so many.
std::vector<size_t> asked_of(const Array<int64_t>& cells, size_t nlist) {
  std::vector<size_t> asked;
  std::vector<bool> seen(nlist);
  for (py::ssize_t i = 0; i < cells.size(); ++i) {
    const int64_t cell = cells.data()[i];
    require(cell >= 0 && static_cast<size_t>(cell) < nlist, "cells must be 0 to nlist - 1");
    const size_t number = static_cast<size_t>(cell);
    if (!seen[number]) asked.push_back(number);
    seen[number] = true;
  }
  return asked;
}

// The segments with their cells, of which the queries have `probes.cells`. Starts are checked where
// they are read.
struct Cells {
  std::vector<Grouped> segments;
  Probes probes;
};

Cells cells_of(const std::vector<SegmentArrays>& arrays, const std::vector<Array<int64_t>>& starts,
               const Array<int64_t>& cells, const Queries& queries) {
  require(cells.ndim() == 2 && static_cast<size_t>(cells.shape(0)) == queries.n,
          "cells must have shape (nq, n)");
  require(arrays.size() == starts.size(), "each segment must have starts");
  std::vector<Grouped> grouped;
  // An index may have many segments and more cells, of which the queries ask for few.
  std::vector<size_t> asked;
  size_t nlist = 0;
  for (size_t s = 0; s < arrays.size(); ++s) {
    const std::vector<Segment> segment = segments_of({arrays[s]}, queries);
    if (segment.empty()) continue;
    const int64_t n = static_cast<int64_t>(segment[0].n);
    const int64_t* at = starts[s].data();
    if (grouped.empty()) {
      nlist = static_cast<size_t>(std::max<py::ssize_t>(starts[s].size(), 1) - 1);
      asked = asked_of(cells, nlist);
    }
    require(static_cast<size_t>(starts[s].size()) == nlist + 1,
            "starts must have shape (nlist + 1,)");
    for (const size_t cell : asked)
      require(0 <= at[cell] && at[cell] <= at[cell + 1] && at[cell + 1] <= n,
              "starts must rise from 0 to n");
    grouped.push_back({segment[0], at});
  }
  return {grouped, {cells.data(), static_cast<size_t>(cells.shape(1)), nlist}};
}

py::tuple search_cells(const Array<float>& tables, const std::vector<SegmentArrays>& arrays,
                       const std::vector<Array<int64_t>>& starts, const Array<int64_t>& cells,
                       size_t k, size_t threads, const std::string& level) {
  const Level& chosen = level_named(level);
  const Queries queries = queries_of(tables, chosen);
  const Cells probed = cells_of(arrays, starts, cells, queries);
  require(k >= 1 && threads >= 1, "k and threads must be at least 1");
  py::array_t<float> D({queries.n, k});
  py::array_t<int64_t> I({queries.n, k});
  float* distances = D.mutable_data();
  int64_t* ids = I.mutable_data();
  {
    py::gil_scoped_release released;
    search_in_cells(chosen, queries, probed.segments, probed.probes, k, threads, distances, ids);
  }
  return py::make_tuple(D, I);
}

py::tuple range_search_cells(const Array<float>& tables, const std::vector<SegmentArrays>& arrays,
                             const std::vector<Array<int64_t>>& starts,
                             const Array<int64_t>& cells, float radius, size_t threads,
                             const std::string& level) {
  const Level& chosen = level_named(level);
  const Queries queries = queries_of(tables, chosen);
  const Cells probed = cells_of(arrays, starts, cells, queries);
  require(threads >= 1, "threads must be at least 1");
  std::vector<std::vector<Hit>> found;
  {
    py::gil_scoped_release released;
    found = range_search_in_cells(chosen, queries, probed.segments, probed.probes, radius, threads);
  }
  return arrays_of(found);
}

std::vector<std::string> levels() {
  std::vector<std::string> names;
  for (const Level& level : kLevels)
    if (level.runs_here()) names.emplace_back(level.name);
  return names;
}

// Features as they are kept, some of their rows, and the query that each of these meets.
using FeatureArrays = std::tuple<Array<uint8_t>, Array<int64_t>, Array<int64_t>>;

FeatureForm form_of(const std::string& kind, size_t d, bool root,
                    const std::optional<Array<float>>& mean, int bits) {
  require(kind == "int8" || kind == "float16" || kind == "float32",
          "kind must be int8, float16 or float32");
  require(!mean || static_cast<size_t>(mean->size()) == d, "mean must have shape (d,)");
  require(bits >= 1 && bits <= 26, "bits must be 1 to 26");
  return {kind == "int8"      ? FeatureForm::kInt8
          : kind == "float16" ? FeatureForm::kFloat16
                              : FeatureForm::kFloat32,
          d, root, mean ? mean->data() : nullptr, bits};
}

py::tuple compare_features(const std::vector<FeatureArrays>& arrays, const Array<double>& queries,
                           const std::string& kind, bool root,
                           const std::optional<Array<float>>& mean, int bits, bool differences,
                           size_t threads, const std::string& level) {
  require(queries.ndim() == 2, "queries must have shape (nq, d)");
  const size_t nq = static_cast<size_t>(queries.shape(0));
  const size_t d = static_cast<size_t>(queries.shape(1));
  const FeatureForm form = form_of(kind, d, root, mean, bits);
  const Level& chosen = level_named(level);
  require(threads >= 1, "threads must be at least 1");
  const size_t size = form.size();
  std::vector<const uint8_t*> rows;
  std::vector<int64_t> which;
  for (const auto& [features, numbers, of] : arrays) {
    require(features.ndim() == 2 && static_cast<size_t>(features.shape(1)) == size,
            "features must have shape (n, size)");
    require(numbers.ndim() == 1 && of.ndim() == 1 && numbers.size() == of.size(),
            "rows and which must have one shape (m,)");
    for (py::ssize_t i = 0; i < numbers.size(); ++i) {
      const int64_t row = numbers.data()[i], query = of.data()[i];
      require(row >= 0 && row < features.shape(0), "rows must be 0 to n - 1");
      require(query >= 0 && static_cast<size_t>(query) < nq, "which must be 0 to nq - 1");
      rows.push_back(features.data() + static_cast<size_t>(row) * size);
      which.push_back(query);
    }
  }
  const py::ssize_t m = static_cast<py::ssize_t>(rows.size());
  py::array_t<double> dot(m), square(m), unit(m);
  const Products out{dot.mutable_data(), square.mutable_data(), unit.mutable_data()};
  {
    py::gil_scoped_release released;
    compare(chosen, form, rows, which.data(), queries.data(), differences, threads, out);
  }
  return py::make_tuple(dot, square, unit);
}

uint64_t stream(const Array<uint8_t>& data, const std::string& level) {
  const Level& chosen = level_named(level);
  const uint8_t* bytes = data.data();
  const size_t n = static_cast<size_t>(data.size());
  py::gil_scoped_release released;
  return chosen.stream(bytes, n);
}

}  // namespace

PYBIND11_MODULE(_native, module) {
  module.doc() = "The compiled scan; use it through hyperpq.scan.";
  module.def("levels", &levels, "The levels that this processor can run, the fastest first.");
  module.def("search_segments", &search_segments, py::arg("tables").noconvert(),
             py::arg("segments").noconvert(), py::arg("k"), py::arg("threads"), py::arg("level"));
  module.def("range_search_segments", &range_search_segments, py::arg("tables").noconvert(),
             py::arg("segments").noconvert(), py::arg("radius"), py::arg("threads"),
             py::arg("level"));
  module.def("search_cells", &search_cells, py::arg("tables").noconvert(),
             py::arg("segments").noconvert(), py::arg("starts").noconvert(),
             py::arg("cells").noconvert(), py::arg("k"), py::arg("threads"), py::arg("level"));
  module.def("range_search_cells", &range_search_cells, py::arg("tables").noconvert(),
             py::arg("segments").noconvert(), py::arg("starts").noconvert(),
             py::arg("cells").noconvert(), py::arg("radius"), py::arg("threads"),
             py::arg("level"));
  module.def("compare_features", &compare_features, py::arg("parts").noconvert(),
             py::arg("queries").noconvert(), py::arg("kind"), py::arg("root"),
             py::arg("mean").noconvert(), py::arg("bits"), py::arg("differences"),
             py::arg("threads"), py::arg("level"));
  module.def("stream", &stream, py::arg("data").noconvert(), py::arg("level"));
}
