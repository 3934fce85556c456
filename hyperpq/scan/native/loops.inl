// Plain loops that the compiler vectorises, once for each level: included inside its namespace,
// with HYPERPQ_TARGET the attribute that names the instruction set.

HYPERPQ_TARGET inline void lift(const float* table, double least, double unit, float* above) {
  // 2^-22 pays for the rounding here and in `quantize`, see bound.h.
  const double down = unit * (1.0 - 0x1p-22);
  for (size_t i = 0; i < 256; ++i)
    above[i] = static_cast<float>((static_cast<double>(table[i]) - least) * down);
}

HYPERPQ_TARGET inline void quantize(const float* above, size_t n, float scale, uint8_t* bytes) {
  for (size_t i = 0; i < n; ++i) {
    const float value = above[i] * scale;
    bytes[i] = static_cast<uint8_t>(static_cast<int32_t>(value < 255.0f ? value : 255.0f));
  }
}

HYPERPQ_TARGET inline uint64_t stream(const uint8_t* data, size_t n) {
  uint64_t seen[32] = {0};
  size_t i = 0;
  for (; i + sizeof seen <= n; i += sizeof seen) {
    uint64_t part[32];
    __builtin_memcpy(part, data + i, sizeof part);
    for (size_t j = 0; j < 32; ++j) seen[j] ^= part[j];
  }
  uint64_t all = 0;
  for (; i < n; ++i) all ^= data[i];
  for (size_t j = 0; j < 32; ++j) all ^= seen[j];
  return all;
}
