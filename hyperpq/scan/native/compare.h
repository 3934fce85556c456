// Products of kept features with queries, exact: `codec/feature_products.py` is the plain version.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "level.h"
#include "threads.h"

namespace hyperpq {

// One result for each pair of a query and a row, three in all: the product of both, the sum of the
// squares of the row, both of integers, and the unit of the integers of the row.
struct Products {
  double *dot, *square, *unit;
};

// Compares some rows, at their bytes, with the queries `which`. Equal rows that follow each other
// are read once. `queries` are rows of integers, whose products are exact; or features, if the
// differences from them are asked for, of which only the squares and units are given.
inline void compare(const Level& level, const FeatureForm& form,
                    const std::vector<const uint8_t*>& rows, const int64_t* which,
                    const double* queries, bool differences, size_t threads, Products out) {
  // Starting a thread takes about as long as two hundred thousand values.
  const double work = static_cast<double>(rows.size()) * static_cast<double>(form.d);
  threads = std::max<size_t>(1, std::min(threads, static_cast<size_t>(1 + work / 4e5)));
  in_threads(threads, [&](size_t thread) {
    std::vector<float> values(form.d);
    std::vector<double> apart(differences ? form.d : 0);
    double largest = 0;
    const size_t first = rows.size() * thread / threads;
    const size_t last = rows.size() * (thread + 1) / threads;
    for (size_t p = first; p < last; ++p) {
      constexpr size_t kAhead = 2;  // Rows lie anywhere in memory.
      if (p + kAhead < last)
        for (size_t i = 0; i < form.size(); i += 64) __builtin_prefetch(rows[p + kAhead] + i);
      const double* query = queries + static_cast<size_t>(which[p]) * form.d;
      if (p == first || rows[p] != rows[p - 1])
        largest = level.values(rows[p], form, values.data());
      double most = largest;
      if (differences) {
        for (size_t i = 0; i < form.d; ++i) apart[i] = query[i] - static_cast<double>(values[i]);
        most = level.largest(apart.data(), form.d);
      }
      int exponent;
      std::frexp(most, &exponent);
      const double factor = std::ldexp(1.0, form.bits - exponent);
      out.unit[p] = std::ldexp(1.0, exponent - form.bits);
      out.dot[p] = 0;
      out.square[p] = differences
                          ? level.squares(apart.data(), factor, form.d)
                          : level.products(values.data(), factor, query, form.d, out.dot + p);
    }
  });
}

}  // namespace hyperpq
