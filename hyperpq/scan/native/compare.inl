// Loops over kept features, which the compiler vectorizes once for each level. This file is included
// in the namespace of a level. Products and sums of integers are exact, and so are products with a
// scale, which has 17 bits; roots and differences are rounded as IEEE 754 says. So the results are the
// same at every level, in whatever order a compiler adds and whether it fuses or not.

// The largest absolute value. Positive numbers are ordered as their bits are.
HYPERPQ_TARGET inline double largest(const double* x, size_t d) {
  int64_t most = 0;
  for (size_t i = 0; i < d; ++i) {
    int64_t bits;
    __builtin_memcpy(&bits, x + i, sizeof bits);
    bits &= 0x7fffffffffffffff;
    most = bits > most ? bits : most;
  }
  double value;
  __builtin_memcpy(&value, &most, sizeof value);
  return value;
}

// Normalizes the values load(0) to load(d - 1) and returns the largest absolute value.
template <bool root, bool centred, class Load>
HYPERPQ_TARGET inline double normalize(Load load, const FeatureForm& form, float* out) {
  int32_t most = 0;
  for (size_t i = 0; i < form.d; ++i) {
    float value = load(i);
    if (root) value = __builtin_copysignf(__builtin_sqrtf(__builtin_fabsf(value)), value);
    if (centred) value -= form.mean[i];
    out[i] = value;
    int32_t bits;
    __builtin_memcpy(&bits, &value, sizeof bits);
    bits &= 0x7fffffff;
    most = bits > most ? bits : most;
  }
  float value;
  __builtin_memcpy(&value, &most, sizeof value);
  return value;
}

template <class Load>
HYPERPQ_TARGET inline double normalize(Load load, const FeatureForm& form, float* out) {
  if (form.root)
    return form.mean ? normalize<true, true>(load, form, out)
                     : normalize<true, false>(load, form, out);
  return form.mean ? normalize<false, true>(load, form, out)
                   : normalize<false, false>(load, form, out);
}

// The values of a row, normalized. Returns the largest absolute value.
HYPERPQ_TARGET inline double values(const uint8_t* row, const FeatureForm& form, float* out) {
  constexpr float kLargest = std::numeric_limits<float>::max();
  if (form.kind == FeatureForm::kInt8) {
    float scale;
    __builtin_memcpy(&scale, row, sizeof scale);
    const int8_t* levels = reinterpret_cast<const int8_t*>(row + sizeof scale);
    if (scale <= kLargest / 128)
      return normalize([=](size_t i) { return scale * static_cast<float>(levels[i]); }, form, out);
    const auto finite = [=](size_t i) {
      const float value = scale * static_cast<float>(levels[i]);
      const float below = value > kLargest ? kLargest : value;
      return below < -kLargest ? -kLargest : below;
    };
    return normalize(finite, form, out);
  }
  if (form.kind == FeatureForm::kFloat16) {
    const auto widened = [=](size_t i) {
      uint16_t half;
      __builtin_memcpy(&half, row + 2 * i, sizeof half);
      // The exponent is that of a float32 less 112.
      const uint32_t bits = static_cast<uint32_t>(half & 0x7fff) << 13;
      float value;
      __builtin_memcpy(&value, &bits, sizeof value);
      value *= 0x1p112f;
      return half & 0x8000 ? -value : value;
    };
    return normalize(widened, form, out);
  }
  const auto loaded = [=](size_t i) {
    float value;
    __builtin_memcpy(&value, row + 4 * i, sizeof value);
    return value;
  };
  return normalize(loaded, form, out);
}

// Rounds values times `factor` to integers, ties to even. Returns the sum of their squares, and in
// `dot` that of their products with a query, if there is one. Without an order of its own a sum is
// vectorized only if its lanes are written down.
template <class T>
HYPERPQ_TARGET inline double multiply(const T* x, double factor, const double* query, size_t d,
                                      double* dot) {
  constexpr size_t kLanes = 16;
  constexpr double kRound = 0x1.8p52;
  double squares[kLanes] = {0}, sums[kLanes] = {0};
  size_t i = 0;
  for (; i + kLanes <= d; i += kLanes)
    for (size_t j = 0; j < kLanes; ++j) {
      const double whole = (static_cast<double>(x[i + j]) * factor + kRound) - kRound;
      squares[j] += whole * whole;
      if (dot) sums[j] += whole * query[i + j];
    }
  for (; i < d; ++i) {
    const double whole = (static_cast<double>(x[i]) * factor + kRound) - kRound;
    squares[0] += whole * whole;
    if (dot) sums[0] += whole * query[i];
  }
  for (size_t j = 1; j < kLanes; ++j) {
    squares[0] += squares[j];
    sums[0] += sums[j];
  }
  if (dot) *dot = sums[0];
  return squares[0];
}

HYPERPQ_TARGET inline double products(const float* x, double factor, const double* query, size_t d,
                                      double* dot) {
  return multiply(x, factor, query, d, dot);
}

HYPERPQ_TARGET inline double squares(const double* x, double factor, size_t d) {
  return multiply<double>(x, factor, nullptr, d, nullptr);
}
