// Plain loops that the compiler vectorizes once for each level. This file is included in the
// namespace of a level, where HYPERPQ_TARGET is the attribute that names the instruction set.

HYPERPQ_TARGET inline void quantize(const Entries& entries, uint8_t* bytes, size_t stride,
                                    uint32_t* sums) {
  const float unit = entries.unit, scale = entries.scale;
  const size_t width = entries.width;
  for (size_t m = 0; m < entries.rows; ++m) {
    // Local and `restrict`, or compilers do not vectorize.
    const float* __restrict x = entries.x + m * width;
    uint8_t* __restrict to = bytes + m * stride;
    const float least = entries.least[m] * unit;
    uint32_t sum = 0;
    for (size_t i = 0; i < width; ++i) {
      const float value = (x[i] * unit - least) * scale;
      const int32_t byte = static_cast<int32_t>(value < 255.0f ? value : 255.0f);
      to[i] = static_cast<uint8_t>(byte);
    }
    for (size_t i = 0; i < width; ++i) sum += to[i];
    sums[m] = sum;
  }
}

HYPERPQ_TARGET inline void halve(const float* x, size_t n, float* least) {
  for (size_t i = 0; i < n; ++i) least[i] = x[2 * i + 1] < x[2 * i] ? x[2 * i + 1] : x[2 * i];
}

HYPERPQ_TARGET inline uint32_t magnitude(const float* table, size_t n) {
  uint32_t most = 0;
  for (size_t i = 0; i < n; ++i) {
    uint32_t bits;
    __builtin_memcpy(&bits, table + i, sizeof bits);
    bits &= 0x7fffffffu;
    most = bits > most ? bits : most;
  }
  return most;
}

HYPERPQ_TARGET inline uint64_t stream(const uint8_t* data, size_t n) {
  uint64_t seen[32] = {0};
  size_t i = 0;
  for (; i + sizeof seen <= n; i += sizeof seen) {
    uint64_t words[32];
    __builtin_memcpy(words, data + i, sizeof words);
    for (size_t j = 0; j < 32; ++j) seen[j] ^= words[j];
  }
  uint64_t all = 0;
  for (; i < n; ++i) all ^= data[i];
  for (size_t j = 0; j < 32; ++j) all ^= seen[j];
  return all;
}
