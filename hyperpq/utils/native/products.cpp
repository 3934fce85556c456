// Products of rows of integers with a matrix of integers; `utils/exact_products.py` has the plain
// version.
//
// Every sum is exact, so its order, the instruction set and fused operations change nothing.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <stdexcept>
#include <utility>
#include <vector>

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define HYPERPQ_AVX2
#endif

namespace py = pybind11;

#include "integers.h"
#include "nearest.h"
#include "tables.h"

namespace hyperpq {

// Columns of a panel: their sums stay in registers.
constexpr size_t kPanel = 32;

// Sums (kPanel,) of the products of a row (k,) with a panel (k, kPanel). Integers of 32 bits are
// multiplied, as to widen float32 to double takes longer than the products.
void plain_panel_sums(const int32_t* row, const int32_t* panel, size_t k, int64_t* out) {
  int64_t sums[kPanel] = {};
  for (size_t i = 0; i < k; ++i)
    for (size_t j = 0; j < kPanel; ++j)
      sums[j] += static_cast<int64_t>(row[i]) * panel[i * kPanel + j];
  std::copy(sums, sums + kPanel, out);
}

#ifdef HYPERPQ_AVX2
__attribute__((target("avx2"))) void avx2_panel_sums(const int32_t* row, const int32_t* panel,
                                                     size_t k, int64_t* out) {
  constexpr size_t kWords = 8, kRegisters = kPanel / kWords;
  // Of every two columns the first and the second.
  __m256i even[kRegisters], odd[kRegisters];
  for (size_t r = 0; r < kRegisters; ++r) even[r] = odd[r] = _mm256_setzero_si256();
  for (size_t i = 0; i < k; ++i) {
    const __m256i factor = _mm256_set1_epi64x(row[i]);
#pragma GCC unroll 4
    for (size_t r = 0; r < kRegisters; ++r) {
      const __m256i some =
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(panel + i * kPanel + r * kWords));
      even[r] = _mm256_add_epi64(even[r], _mm256_mul_epi32(some, factor));
      odd[r] = _mm256_add_epi64(odd[r], _mm256_mul_epi32(_mm256_srli_epi64(some, 32), factor));
    }
  }
  for (size_t r = 0; r < kRegisters; ++r) {
    int64_t first[kWords / 2], second[kWords / 2];
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(first), even[r]);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(second), odd[r]);
    for (size_t pair = 0; pair < kWords / 2; ++pair) {
      out[r * kWords + 2 * pair] = first[pair];
      out[r * kWords + 2 * pair + 1] = second[pair];
    }
  }
}
#endif

typedef void PanelSums(const int32_t*, const int32_t*, size_t, int64_t*);

PanelSums* fastest_panel_sums() {
#ifdef HYPERPQ_AVX2
  if (__builtin_cpu_supports("avx2")) return avx2_panel_sums;
#endif
  return plain_panel_sums;
}

// Sums (m,) of the products of a row (k,) with rows of bytes (m, k).
HYPERPQ_CLONES void byte_sums(const int16_t* row, const int8_t* bytes, size_t m, size_t k,
                                   int32_t* out) {
  for (size_t j = 0; j < m; ++j) {
    int32_t sum = 0;
    for (size_t i = 0; i < k; ++i) sum += row[i] * static_cast<int16_t>(bytes[j * k + i]);
    out[j] = sum;
  }
}

// The smallest of some values, equal ones in the order in which they came.
class Smallest {
 public:
  explicit Smallest(size_t count) : count_(count) { kept_.reserve(count + 1); }
  void offer(double value, size_t position) {
    if (kept_.size() == count_ && !(value < kept_.back().first)) return;
    const auto later = [](double v, const Entry& entry) { return v < entry.first; };
    kept_.insert(std::upper_bound(kept_.begin(), kept_.end(), value, later), {value, position});
    if (kept_.size() > count_) kept_.pop_back();
  }
  double largest() const { return kept_.back().first; }
  void positions(int64_t* out) const {
    for (const Entry& entry : kept_) *out++ = static_cast<int64_t>(entry.second);
  }

 private:
  typedef std::pair<double, size_t> Entry;
  size_t count_;
  std::vector<Entry> kept_;
};

// Rows of integers times units, and what is known of them from a byte for each integer.
struct Rows {
  const int32_t* integers;  // (m, k)
  const double* units;      // (m,)
  const int8_t* bytes;      // (m, k)
  const double* scales;     // (m,): bytes times them are the rows, up to their errors
  const double* errors;     // (m,): at least the lengths of what is missing
  const double* lengths;    // (m,): at least the lengths of bytes times scales
  size_t m, k;
};

// Between which values the products of v (k,) with some rows are, by the bytes of these. With w, which
// is v in 16 bits, and s, which is a row r in bytes: |v r - w s| <= |v| |r - s| + |v - w| |s|.
class Screen {
 public:
  explicit Screen(const Rows& rows)
      : rows_(rows), words_(rows.k), sums_(rows.m), low_(rows.m), high_(rows.m) {}

  void take(const int32_t* v) {
    const size_t k = rows_.k;
    double largest = 0, length = 0, rest = 0;
    for (size_t i = 0; i < k; ++i) largest = std::max(largest, std::fabs(static_cast<double>(v[i])));
    // Sums of products with bytes fit 32 bits.
    const double limit =
        std::min(32767.0, std::floor(2147483647.0 / (127.0 * static_cast<double>(k))));
    const double unit = largest > 0 ? largest / limit : 1, factor = 1 / unit;
    for (size_t i = 0; i < k; ++i) {
      const double value = v[i], word = std::rint(value * factor), missing = value - word * unit;
      words_[i] = static_cast<int16_t>(word);
      length += value * value;
      rest += missing * missing;
    }
    byte_sums(words_.data(), rows_.bytes, rows_.m, k, sums_.data());
    write_bounds(unit, std::sqrt(length), std::sqrt(rest));
  }
  double low(size_t j) const { return low_[j]; }
  double high(size_t j) const { return high_[j]; }

 private:
  void write_bounds(double unit, double length, double rest) {
    const int32_t* sums = sums_.data();
    double *low = low_.data(), *high = high_.data();
    for (size_t j = 0; j < rows_.m; ++j) {
      const double middle = unit * sums[j] * rows_.scales[j];
      const double error = rows_.errors[j] * length + rows_.lengths[j] * rest;
      low[j] = middle - error;
      high[j] = middle + error;
    }
  }

  const Rows& rows_;
  std::vector<int16_t> words_;
  std::vector<int32_t> sums_;
  std::vector<double> low_, high_;
};

// Positions (n, count) of the rows with the smallest products with each v (n, k), ascending.
void smallest_products(const double* v, size_t n, const Rows& rows, int bits, size_t count,
                       int64_t* out) {
  std::vector<int32_t> integers(rows.k);
  Screen screen(rows);
  for (size_t r = 0; r < n; ++r, out += count) {
    round_row(v + r * rows.k, rows.k, bits, integers.data());
    screen.take(integers.data());
    Smallest bounds(count), kept(count);
    for (size_t j = 0; j < rows.m; ++j) bounds.offer(screen.high(j), j);
    for (size_t j = 0; j < rows.m; ++j)
      if (screen.low(j) <= bounds.largest())
        kept.offer(
            static_cast<double>(row_sum(integers.data(), rows.integers + j * rows.k, rows.k)) *
                rows.units[j],
            j);
    kept.positions(out);
    std::sort(out, out + count);
  }
}

}  // namespace hyperpq

namespace {

template <class T>
using Array = py::array_t<T, py::array::c_style>;

void require(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(what);
}

Array<double> left_product(const Array<double>& a, const Array<int32_t>& panels,
                           const Array<double>& units, int bits) {
  require(a.ndim() == 2 && panels.ndim() == 3 && units.ndim() == 1, "wrong number of axes");
  const size_t n = static_cast<size_t>(a.shape(0)), k = static_cast<size_t>(a.shape(1));
  const size_t m = static_cast<size_t>(units.shape(0));
  require(static_cast<size_t>(panels.shape(1)) == k, "panels must have a row for each column of a");
  require(static_cast<size_t>(panels.shape(2)) == hyperpq::kPanel, "panels must have 32 columns");
  require(static_cast<size_t>(panels.shape(0)) * hyperpq::kPanel >= m, "panels must be m columns");
  Array<double> out({n, m});
  const double* rows = a.data();
  const int32_t* columns = panels.data();
  const double* column_units = units.data();
  double* to = out.mutable_data();
  {
    py::gil_scoped_release release;
    static hyperpq::PanelSums* const panel_sums = hyperpq::fastest_panel_sums();
    std::vector<int32_t> integers(k);
    for (size_t r = 0; r < n; ++r) {
      const double unit = hyperpq::round_row(rows + r * k, k, bits, integers.data());
      for (size_t start = 0; start < m; start += hyperpq::kPanel) {
        int64_t sums[hyperpq::kPanel];
        panel_sums(integers.data(), columns + start * k, k, sums);
        const size_t count = std::min(hyperpq::kPanel, m - start);
        for (size_t j = 0; j < count; ++j)
          to[r * m + start + j] = static_cast<double>(sums[j]) * unit * column_units[start + j];
      }
    }
  }
  return out;
}

Array<int64_t> smallest_products(const Array<double>& v, const Array<int32_t>& integers,
                                 const Array<double>& units, const Array<int8_t>& bytes,
                                 const Array<double>& bounds, int bits, size_t count) {
  require(v.ndim() == 2 && integers.ndim() == 2 && units.ndim() == 1 && bytes.ndim() == 2 &&
              bounds.ndim() == 2,
          "wrong number of axes");
  const size_t n = static_cast<size_t>(v.shape(0)), k = static_cast<size_t>(v.shape(1));
  const size_t m = static_cast<size_t>(units.shape(0));
  require(1 <= count && count <= m, "count must be from 1 to m");
  require(k > 0 && std::all_of(v.data(), v.data() + v.size(), [](double x) { return std::isfinite(x); }),
          "v must be finite and have columns");
  for (const auto* shape : {integers.shape(), bytes.shape()})
    require(static_cast<size_t>(shape[0]) == m && static_cast<size_t>(shape[1]) == k,
            "integers and bytes must be (m, k)");
  require(bounds.shape(0) == 3 && static_cast<size_t>(bounds.shape(1)) == m,
          "bounds must be (3, m)");
  Array<int64_t> out({n, count});
  const hyperpq::Rows rows = {integers.data(), units.data(),     bytes.data(),      bounds.data(0),
                              bounds.data(1),  bounds.data(2), m, k};
  const double* from = v.data();
  int64_t* to = out.mutable_data();
  {
    py::gil_scoped_release release;
    hyperpq::smallest_products(from, n, rows, bits, count, to);
  }
  return out;
}

Array<int64_t> nearest_rows(const Array<float>& v, const Array<float>& products,
                            const Array<double>& errors, const Array<int32_t>& integers,
                            const Array<double>& units, const Array<double>& half, int bits,
                            size_t count) {
  require(v.ndim() == 2 && products.ndim() == 2 && errors.ndim() == 1 && integers.ndim() == 2 &&
              units.ndim() == 1 && half.ndim() == 1,
          "wrong number of axes");
  const size_t n = static_cast<size_t>(v.shape(0)), k = static_cast<size_t>(v.shape(1));
  const size_t m = static_cast<size_t>(half.size());
  require(static_cast<size_t>(products.shape(0)) == n && static_cast<size_t>(errors.size()) == n &&
              static_cast<size_t>(products.shape(1)) == m,
          "products must be (n, m) and errors (n,)");
  require(static_cast<size_t>(integers.shape(0)) == m && static_cast<size_t>(units.size()) == m &&
              static_cast<size_t>(integers.shape(1)) == k,
          "integers must be (m, k) and units (m,)");
  require(1 <= count && count <= m, "count must be from 1 to m");
  Array<int64_t> rows({n, count});
  const hyperpq::Centres centres = {integers.data(), units.data(), half.data(), m, k, bits};
  const float *from = v.data(), *near = products.data();
  const double* off = errors.data();
  int64_t* to = rows.mutable_data();
  {
    py::gil_scoped_release release;
    hyperpq::NearestRows nearest(centres, count);
    for (size_t r = 0; r < n; ++r) nearest.find(from + r * k, near + r * m, off[r], to + r * count);
  }
  return rows;
}

py::tuple product_tables(const Array<double>& v, const Array<double>& high,
                         const Array<double>& low, const Array<double>& units,
                         const std::optional<Array<double>>& lengths, int bits, double near) {
  require(v.ndim() == 3 && high.ndim() == 3 && low.ndim() == 3 && units.ndim() == 2,
          "wrong number of axes");
  const size_t n = static_cast<size_t>(v.shape(0)), M = static_cast<size_t>(high.shape(0));
  const size_t D = static_cast<size_t>(high.shape(1)), K = static_cast<size_t>(high.shape(2));
  require(std::equal(high.shape(), high.shape() + 3, low.shape()), "high and low must be (M, D, K)");
  require(static_cast<size_t>(v.shape(1)) == M && static_cast<size_t>(v.shape(2)) == D,
          "v must be (n, M, D)");
  require(K % hyperpq::kWords == 0, "K must be a multiple of 16");
  for (const Array<double>* array : {&units, lengths ? &*lengths : &units})
    require(array->ndim() == 2 && static_cast<size_t>(array->shape(0)) == M &&
                static_cast<size_t>(array->shape(1)) == K,
            "units and lengths must be (M, K)");
  Array<double> out({n, M, K});
  const hyperpq::Codewords words = {high.data(), low.data(), units.data(),
                                    lengths ? lengths->data() : nullptr, M, D, K, bits};
  std::vector<int64_t> found;
  const double* from = v.data();
  double* to = out.mutable_data();
  {
    py::gil_scoped_release release;
    hyperpq::ProductTables(words).fill(from, n, near, to, &found);
  }
  return py::make_tuple(out, py::array_t<int64_t>(static_cast<py::ssize_t>(found.size()), found.data()));
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "Exact products of integers, and the rows nearest to vectors.";
  m.attr("PANEL") = hyperpq::kPanel;
  m.def("left_product", &left_product, py::arg("a").noconvert(), py::arg("panels").noconvert(),
        py::arg("units").noconvert(), py::arg("bits"));
  m.def("smallest_products", &smallest_products, py::arg("v").noconvert(),
        py::arg("integers").noconvert(), py::arg("units").noconvert(), py::arg("bytes").noconvert(),
        py::arg("bounds").noconvert(), py::arg("bits"), py::arg("count"));
  m.def("nearest_rows", &nearest_rows, py::arg("v").noconvert(), py::arg("products").noconvert(),
        py::arg("errors").noconvert(), py::arg("integers").noconvert(),
        py::arg("units").noconvert(), py::arg("half").noconvert(), py::arg("bits"),
        py::arg("count"));
  m.def("product_tables", &product_tables, py::arg("v").noconvert(), py::arg("high").noconvert(),
        py::arg("low").noconvert(), py::arg("units").noconvert(), py::arg("lengths").noconvert(),
        py::arg("bits"), py::arg("near"));
}
