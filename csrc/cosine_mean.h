// cosine_mean: adds the unit tokens of a micro-batch to running sums, and scores them against an anchor.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "floats.h"
#include "parallel.h"

// Vector types appear only in functions that are always inlined: their calling convention does not matter.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

namespace fsfast {

// Rows of one image in row order; image < 0 never appears here.
struct ImageRows {
  int64_t image;
  std::vector<int64_t> rows;
};

struct CosineArguments {
  const char* features;  // [M, L, D]
  Dtype dtype;
  int64_t tokens, dim;   // L, D
  const double* anchor;  // [B, L, D] or null
  double* unit;          // [B, L, D] or null: then norm is null, too
  double* norm;          // [B, L]
  double* raw;           // [B, L, D] or null
  double* dots;          // [M, L]: <unit token, anchor>; null without an anchor

  int64_t token_bytes() const { return dim * (dtype == Dtype::FLOAT32 ? 4 : 2); }
};

// Sums run over 16 interleaved partial sums and then over one fixed tree, whatever the vector width. The type
// says so to the compiler: it is GCC's and Clang's notation for four float64, on any processor.
using Lanes = double __attribute__((vector_size(32)));
constexpr int64_t VECTORS = 4, WIDTH = 4, SUM_LANES = VECTORS * WIDTH;

FSFAST_INLINE Lanes load_lanes(const float* from) {
  float __attribute__((vector_size(16))) narrow;
  std::memcpy(&narrow, from, sizeof narrow);
  return __builtin_convertvector(narrow, Lanes);
}

FSFAST_INLINE Lanes load_lanes(const double* from) {
  Lanes lanes;
  std::memcpy(&lanes, from, sizeof lanes);
  return lanes;
}

FSFAST_INLINE double tree_sum(const Lanes (&sum)[VECTORS]) {
  const Lanes four = (sum[0] + sum[2]) + (sum[1] + sum[3]);
  return (four[0] + four[2]) + (four[1] + four[3]);
}

// <x, y> of two vectors, and the sum of squares of x, in one reading.
struct Products {
  double square, dot;
};

// `next` is where the reader will go on soon: hardware does not foresee the step to another row. It is called
// to the second-level cache; the first holds the sums.
FSFAST_CLONES inline Products products(const float* token, const double* anchor, int64_t dim, const char* next) {
  Lanes square[VECTORS] = {}, dot[VECTORS] = {};
  const auto add = [&](const float* t, const double* a) {
#pragma GCC unroll 4
    for (int64_t v = 0; v < VECTORS; ++v) {
      const Lanes value = load_lanes(t + v * WIDTH);
      square[v] += value * value;
      if (anchor != nullptr) dot[v] += value * load_lanes(a + v * WIDTH);
    }
  };
  const int64_t whole = dim / SUM_LANES * SUM_LANES, rest = dim - whole;
  for (int64_t i = 0; i < whole; i += SUM_LANES) {
    __builtin_prefetch(next + i * 4, 0, 2);
    add(token + i, anchor + i);
  }
  if (rest > 0) {
    // Zeros fill the lanes that are left: they change no sum.
    float t[SUM_LANES] = {};
    double a[SUM_LANES] = {};
    std::copy_n(token + whole, rest, t);
    if (anchor != nullptr) std::copy_n(anchor + whole, rest, a);
    add(t, a);
  }
  return {tree_sum(square), tree_sum(dot)};
}

FSFAST_CLONES inline void add_scaled(const float* __restrict token, double scale, int64_t dim,
                                     double* __restrict sum) {
  for (int64_t i = 0; i < dim; ++i) sum[i] += token[i] * scale;
}

// buffer: [D].
inline void add_token(const CosineArguments& a, int64_t image, int64_t row, int64_t j, float* buffer) {
  const char* features = a.features + (row * a.tokens + j) * a.token_bytes();
  const float* token = reinterpret_cast<const float*>(features);
  if (a.dtype != Dtype::FLOAT32) {
    load_floats(a.dtype, features, 2, a.dim, buffer);
    token = buffer;
  }
  const int64_t place = image * a.tokens + j;
  const double* anchor = a.anchor == nullptr ? nullptr : a.anchor + place * a.dim;
  const auto [square, dot] = products(token, anchor, a.dim, features + a.tokens * a.token_bytes());
  // The square of a float32 neither overflows nor vanishes in float64.
  const bool usable = std::isfinite(square) && square > 0.0;
  const double norm = usable ? std::sqrt(square) : 1.0;
  if (a.dots != nullptr) {
    a.dots[row * a.tokens + j] = usable ? dot / norm : 0.0;
  }
  if (!usable || a.unit == nullptr) return;
  a.norm[place] += norm;
  add_scaled(token, 1.0 / norm, a.dim, a.unit + place * a.dim);
  if (a.raw != nullptr) add_scaled(token, 1.0, a.dim, a.raw + place * a.dim);
}

// Neighbouring tokens of a row are read together, because memory is fastest in long pieces; their sums stay in
// the second-level cache meanwhile.
constexpr int64_t TOKENS_TOGETHER = 4;

// A place (image, token) belongs to one thread, which adds its rows in order.
inline void cosine_mean(const CosineArguments& a, const std::vector<ImageRows>& images, int threads) {
  const int64_t pieces = (a.tokens + TOKENS_TOGETHER - 1) / TOKENS_TOGETHER;
  std::vector<float> buffers(static_cast<size_t>(threads) * a.dim);
  parallel_for(static_cast<int64_t>(images.size()) * pieces, threads, [&](int64_t begin, int64_t end, int worker) {
    for (int64_t task = begin; task < end; ++task) {
      const ImageRows& group = images[task / pieces];
      const int64_t first = task % pieces * TOKENS_TOGETHER, last = std::min(a.tokens, first + TOKENS_TOGETHER);
      for (const int64_t row : group.rows) {
        for (int64_t j = first; j < last; ++j) add_token(a, group.image, row, j, buffers.data() + worker * a.dim);
      }
    }
  });
}

}  // namespace fsfast
