// Every level that runs here against a plain loop: the survivors of random and hostile views, whole
// searches, and products of features. Prints one line for each level; exits with 1 at the first
// difference.
#include "cells.h"
#include "compare.h"
#include "levels.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "search.h"

using namespace hyperpq;

static std::mt19937 draw(1);

static bool survivors_agree(const Level& level) {
  for (int round = 0; round < 6000; ++round) {
    const bool coarse = round % 2, low = draw() % 2;
    if (coarse && !level.coarse_survivors) continue;
    const size_t columns = 1 + draw() % 40, n_blocks = 1 + draw() % kTile;
    const size_t width = coarse ? kCoarse : level.fine;
    const size_t stride = n_blocks * kBlock + kBlock * (draw() % 3);
    std::vector<uint8_t> codes(columns * stride), bytes(columns * width);
    const unsigned most = draw() % 4 == 0 ? 256 : 1 + 600 / static_cast<unsigned>(columns);
    for (uint8_t& code : codes) code = static_cast<uint8_t>(draw());
    for (size_t i = 0; i < bytes.size(); ++i)
      bytes[i] = coarse && !low && i % kCoarse >= 16
                     ? 0
                     : static_cast<uint8_t>(draw() % std::min(most, 256u));
    std::vector<uint16_t> order(columns);
    for (size_t c = 0; c < columns; ++c) order[c] = static_cast<uint16_t>(c);
    std::shuffle(order.begin(), order.end(), draw);
    const uint8_t limit = static_cast<uint8_t>(draw() % 3 ? draw() : 255);
    std::vector<const uint8_t*> listed(n_blocks);
    for (size_t b = 0; b < n_blocks; ++b) listed[b] = codes.data() + b * kBlock;
    const Blocks run{codes.data(), nullptr, stride}, list{nullptr, listed.data(), stride};
    const View view{draw() % 2 ? run : list, bytes.data(), order.data(), order.size(), low, limit, 0};
    // Some of the blocks.
    Survivors out;
    size_t active = 0;
    for (size_t b = 0; b < n_blocks; ++b)
      if (draw() % 4 || round % 3) out.block[active++] = static_cast<uint32_t>(b);
    std::vector<uint64_t> want(n_blocks);
    std::vector<uint8_t> sums(active * kBlock);
    for (size_t i = 0; i < active; ++i)
      for (size_t r = 0; r < kBlock; ++r) {
        unsigned sum = 0;
        for (size_t c = 0; c < columns; ++c) {
          const uint8_t code = codes[c * stride + out.block[i] * kBlock + r];
          const uint8_t* entries = bytes.data() + c * width;
          sum += coarse ? entries[code >> 4] + entries[16 + (code & 15)]
                        : entries[code / (256 / level.fine)];
        }
        sums[i * kBlock + r] = static_cast<uint8_t>(std::min(sum, 255u));
        if (std::min(sum, 255u) <= limit) want[out.block[i]] |= uint64_t{1} << r;
      }
    const size_t found = (coarse ? level.coarse_survivors : level.survivors)(view, active, out);
    std::vector<uint64_t> got(n_blocks);
    for (size_t i = 0; i < found; ++i) got[out.block[i]] = out.rows[i];
    if (got != want) return false;
    // No block is dropped with a limit of 255, so the sums are those of all.
    if (limit == 255 && !std::equal(sums.begin(), sums.end(), out.sums)) return false;
  }
  return true;
}

static bool searches_agree(const Level& level) {
  for (int round = 0; round < 60; ++round) {
    const size_t K = round % 2 ? 16 : 256, M = 1 + draw() % 12, n = 1 + draw() % 24000, nq = 3;
    const size_t columns = K == 16 ? (M + 1) / 2 : M, k = 1 + draw() % 20;
    std::vector<float> tables(nq * M * K);
    std::normal_distribution<float> normal;
    for (float& entry : tables) entry = round % 3 ? normal(draw) : std::round(normal(draw));
    if (round % 3 == 1)  // Most sums differ in double, and are equal as float.
      for (size_t i = 0; i < tables.size(); ++i)
        tables[i] = tables[i] * 0.02f + (i / K % M ? 0.0f : 1e6f);
    const size_t blocks = (n + kBlock - 1) / kBlock;
    std::vector<uint8_t> codes(blocks * kBlock * columns);
    for (uint8_t& code : codes) code = static_cast<uint8_t>(draw());
    const std::vector<Segment> segments{{codes.data(), n, nullptr, nullptr}};
    const Queries queries{tables.data(), nq, M, K, std::numeric_limits<float>::max()};
    std::vector<float> D(nq * k);
    std::vector<int64_t> I(nq * k);
    search(level, queries, segments, k, 1, D.data(), I.data());
    for (size_t q = 0; q < nq; ++q) {
      std::vector<Hit> hits;
      for (size_t i = 0; i < n; ++i) {
        const size_t b = i / kBlock;
        const uint8_t* row = segments[0].block(b, columns) + i % kBlock;
        double sum = 0;
        for (size_t m = 0; m < M; ++m) {
          const uint8_t byte = row[(K == 16 ? m / 2 : m) * segments[0].stride(b)];
          sum += tables[(q * M + m) * K + (K == 16 ? byte >> (m % 2 * 4) & 15 : byte)];
        }
        hits.push_back({distance_of(sum), static_cast<int64_t>(i)});
      }
      std::sort(hits.begin(), hits.end());
      for (size_t i = 0; i < k; ++i) {
        if (I[q * k + i] != (i < n ? hits[i].id : -1)) return false;
        if (i < n && D[q * k + i] != hits[i].distance) return false;
      }
    }
  }
  return true;
}

// Searches of some cells against those of a segment that has only their rows.
static bool cells_agree(const Level& level) {
  for (int round = 0; round < 40; ++round) {
    const size_t M = 1 + draw() % 9, K = round % 2 ? 16 : 256, nlist = 1 + draw() % 40;
    const size_t columns = K == 16 ? (M + 1) / 2 : M, nq = 1 + draw() % 30, k = 1 + draw() % 30;
    std::vector<int64_t> starts{0};
    for (size_t c = 0; c < nlist; ++c)
      starts.push_back(starts.back() + static_cast<int64_t>(draw() % 2 ? draw() % 500 : 0));
    const size_t n = static_cast<size_t>(starts.back()), blocks = (n + kBlock - 1) / kBlock;
    std::vector<uint8_t> codes(blocks * kBlock * columns);
    for (uint8_t& code : codes) code = static_cast<uint8_t>(draw());
    std::vector<uint64_t> mask(blocks);
    for (uint64_t& word : mask) word = uint64_t{draw()} << 32 | draw();
    const Segment segment{codes.data(), n, nullptr, round % 3 ? nullptr : mask.data()};
    std::vector<float> tables(nq * M * K);
    std::normal_distribution<float> normal;
    for (float& entry : tables) entry = round % 4 ? normal(draw) : std::round(normal(draw));
    const size_t per_query = 1 + draw() % nlist;
    std::vector<int64_t> order(nlist), cells;
    for (size_t c = 0; c < nlist; ++c) order[c] = static_cast<int64_t>(c);
    for (size_t q = 0; q < nq; ++q) {
      std::shuffle(order.begin(), order.end(), draw);
      cells.insert(cells.end(), order.begin(), order.begin() + static_cast<std::ptrdiff_t>(per_query));
    }
    const Queries all{tables.data(), nq, M, K, std::numeric_limits<float>::max()};
    std::vector<float> D(nq * k), near(k);
    std::vector<int64_t> I(nq * k), ids(k);
    search_in_cells(level, all, {{segment, starts.data()}}, {cells.data(), per_query, nlist}, k,
                    1 + draw() % 2, D.data(), I.data());
    for (size_t q = 0; q < nq; ++q) {
      std::vector<uint64_t> rows(blocks);
      for (size_t i = 0; i < per_query; ++i) {
        const size_t cell = static_cast<size_t>(cells[q * per_query + i]);
        for (int64_t row = starts[cell]; row < starts[cell + 1]; ++row)
          rows[static_cast<size_t>(row) / kBlock] |= uint64_t{1} << row % kBlock;
      }
      for (size_t b = 0; segment.mask && b < blocks; ++b) rows[b] &= segment.mask[b];
      const Queries one{tables.data() + q * M * K, 1, M, K, all.most};
      search(level, one, {{codes.data(), n, nullptr, rows.data()}}, k, 1, near.data(), ids.data());
      const auto at = static_cast<std::ptrdiff_t>(q * k);
      if (!std::equal(near.begin(), near.end(), D.begin() + at)) return false;
      if (!std::equal(ids.begin(), ids.end(), I.begin() + at)) return false;
    }
  }
  return true;
}

// Features of hostile values against a loop that adds in order.
static bool features_agree(const Level& level) {
  std::normal_distribution<float> normal;
  for (int round = 0; round < 300; ++round) {
    const size_t d = 1 + draw() % 70, n = 1 + draw() % 9, nq = 3;
    std::vector<float> mean(d);
    for (float& value : mean) value = normal(draw);
    const FeatureForm form{static_cast<FeatureForm::Kind>(round % 3), d, draw() % 2 == 0,
                           draw() % 2 ? mean.data() : nullptr, 23};
    std::vector<uint8_t> bytes(n * form.size());
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(draw());
    std::vector<float> x(n * d);
    for (size_t i = 0; i < n * d; ++i) {
      uint8_t* row = bytes.data() + i / d * form.size();
      if (form.kind == FeatureForm::kInt8) {
        // A scale has 17 bits. Products of that of the last row are beyond the range of float32.
        const float scale = i / d + 1 == n ? std::ldexp(0x1.fffep0f, 120) : 0x1.2468p-5f;
        std::memcpy(row, &scale, sizeof scale);
        const double wide = static_cast<double>(scale) * static_cast<int8_t>(row[4 + i % d]);
        x[i] = distance_of(wide);
      } else if (form.kind == FeatureForm::kFloat16) {
        row[2 * (i % d) + 1] &= 0xbf;  // Finite.
        const unsigned half = row[2 * (i % d)] | row[2 * (i % d) + 1] << 8;
        const int exponent = half >> 10 & 31, fraction = half & 1023;
        const float size = exponent ? std::ldexp(1024.0f + fraction, exponent - 25)
                                    : std::ldexp(static_cast<float>(fraction), -24);
        x[i] = half & 0x8000 ? -size : size;
      } else {
        x[i] = std::ldexp(normal(draw), static_cast<int>(draw() % 40));
        std::memcpy(row + 4 * (i % d), &x[i], sizeof x[i]);
      }
      if (form.root) x[i] = std::copysign(std::sqrt(std::fabs(x[i])), x[i]);
      if (form.mean) x[i] -= mean[i % d];
    }
    const bool differences = draw() % 2 == 0;
    std::vector<double> queries(nq * d);
    for (double& value : queries)
      value = differences ? normal(draw) : static_cast<double>(draw() % 2000) - 1000;
    std::vector<const uint8_t*> rows;
    std::vector<int64_t> which;
    for (size_t p = 0; p < 3 * n; ++p) {
      rows.push_back(bytes.data() + p / 3 * form.size());
      which.push_back(static_cast<int64_t>(draw() % nq));
    }
    std::vector<double> dot(3 * n), square(3 * n), unit(3 * n);
    compare(level, form, rows, which.data(), queries.data(), differences, 1 + draw() % 2,
            {dot.data(), square.data(), unit.data()});
    for (size_t p = 0; p < 3 * n; ++p) {
      const double* query = queries.data() + static_cast<size_t>(which[p]) * d;
      std::vector<double> values(d);
      double most = 0, products = 0, squares = 0;
      for (size_t i = 0; i < d; ++i) {
        values[i] = x[p / 3 * d + i];
        if (differences) values[i] = query[i] - values[i];
        most = std::max(most, std::fabs(values[i]));
      }
      int exponent;
      std::frexp(most, &exponent);
      for (size_t i = 0; i < d; ++i) {
        const double whole = std::rint(std::ldexp(values[i], form.bits - exponent));
        products += differences ? 0 : whole * query[i];
        squares += whole * whole;
      }
      if (dot[p] != products || square[p] != squares) return false;
      if (unit[p] != std::ldexp(1.0, exponent - form.bits)) return false;
    }
  }
  return true;
}

int main() {
  for (const Level& level : kLevels) {
    if (!level.runs_here()) continue;
    const bool right = survivors_agree(level) && searches_agree(level) && cells_agree(level) &&
                       features_agree(level);
    std::printf("%s %s\n", level.name, right ? "agrees" : "DIFFERS");
    if (!right) return 1;
  }
  return 0;
}
