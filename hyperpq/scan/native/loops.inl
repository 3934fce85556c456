// Plain loops that the compiler vectorizes once for each level. This file is included in the
// namespace of a level, where HYPERPQ_TARGET is the attribute that names the instruction set.

HYPERPQ_TARGET inline void lift(const float* table, double least, double unit, float* above) {
  // The factor 1 - 2^-22 covers the rounding here and in `quantize`, see bound.h.
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
    uint64_t words[32];
    __builtin_memcpy(words, data + i, sizeof words);
    for (size_t j = 0; j < 32; ++j) seen[j] ^= words[j];
  }
  uint64_t all = 0;
  for (; i < n; ++i) all ^= data[i];
  for (size_t j = 0; j < 32; ++j) all ^= seen[j];
  return all;
}
