// The Python module: checks of the arguments that memory safety needs, and no other logic.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

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

Queries queries_of(const Array<float>& tables) {
  require(tables.ndim() == 3, "tables must have shape (nq, M, K)");
  const Queries queries{tables.data(), static_cast<size_t>(tables.shape(0)),
                        static_cast<size_t>(tables.shape(1)), static_cast<size_t>(tables.shape(2))};
  require(queries.K == 16 || queries.K == 256, "K must be 16 or 256");
  require(queries.M >= 1 && queries.M <= 1024, "M must be 1 to 1024");
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
  const Queries queries = queries_of(tables);
  const std::vector<Segment> segments = segments_of(arrays, queries);
  const Level& chosen = level_named(level);
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

py::tuple range_search_segments(const Array<float>& tables,
                                const std::vector<SegmentArrays>& arrays, float radius,
                                size_t threads, const std::string& level) {
  const Queries queries = queries_of(tables);
  const std::vector<Segment> segments = segments_of(arrays, queries);
  const Level& chosen = level_named(level);
  require(threads >= 1, "threads must be at least 1");
  std::vector<std::vector<Hit>> found;
  {
    py::gil_scoped_release released;
    found = range_search(chosen, queries, segments, radius, threads);
  }
  py::array_t<int64_t> limits(static_cast<py::ssize_t>(queries.n + 1));
  int64_t* lims = limits.mutable_data();
  lims[0] = 0;
  for (size_t q = 0; q < queries.n; ++q)
    lims[q + 1] = lims[q] + static_cast<int64_t>(found[q].size());
  py::array_t<float> D(static_cast<py::ssize_t>(lims[queries.n]));
  py::array_t<int64_t> I(static_cast<py::ssize_t>(lims[queries.n]));
  float* distances = D.mutable_data();
  int64_t* ids = I.mutable_data();
  for (const std::vector<Hit>& hits : found)
    for (const Hit& hit : hits) {
      *distances++ = hit.distance;
      *ids++ = hit.id;
    }
  return py::make_tuple(limits, D, I);
}

std::vector<std::string> levels() {
  std::vector<std::string> names;
  for (const Level& level : kLevels)
    if (level.runs_here()) names.emplace_back(level.name);
  return names;
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
  module.def("stream", &stream, py::arg("data").noconvert(), py::arg("level"));
}
