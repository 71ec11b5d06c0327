// cosine_mean: adds the unit tokens of a micro-batch to running sums, and scores them against an anchor.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "floats.h"
#include "instruction_sets.h"
#include "parallel.h"

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

  int64_t number_bytes() const { return dtype == Dtype::FLOAT32 ? 4 : 2; }
  int64_t token_bytes() const { return dim * number_bytes(); }
};

// Buffers of one thread: a token in float32 and in float64, padded.
struct TokenScratch {
  std::vector<float> narrow;
  std::vector<double> wide;

  explicit TokenScratch(int64_t dim) : narrow(dim), wide(dim + SUM_LANES) {}
};

inline void add_token(const CosineArguments& a, InstructionSet set, int64_t image, int64_t row, int64_t j,
                      TokenScratch& scratch) {
  const char* features = a.features + (row * a.tokens + j) * a.token_bytes();
  const float* token = reinterpret_cast<const float*>(features);
  if (a.dtype != Dtype::FLOAT32) {
    FSFAST_FUNCTION(set, load_floats)(a.dtype, features, a.number_bytes(), a.dim, scratch.narrow.data());
    token = scratch.narrow.data();
  }
  double* wide = scratch.wide.data();
  const int64_t place = image * a.tokens + j;
  const double* anchor = a.anchor == nullptr ? nullptr : a.anchor + place * a.dim;
  const auto [square, dot] =
      FSFAST_FUNCTION(set, products)(token, anchor, a.dim, features + a.tokens * a.token_bytes(), a.number_bytes(), wide);
  // The square of a float32 neither overflows nor vanishes in float64.
  const bool usable = std::isfinite(square) && square > 0.0;
  const double norm = usable ? std::sqrt(square) : 1.0;
  if (a.dots != nullptr) {
    a.dots[row * a.tokens + j] = usable ? dot / norm : 0.0;
  }
  if (!usable || a.unit == nullptr) return;
  a.norm[place] += norm;
  const auto add_scaled = FSFAST_FUNCTION(set, add_scaled);
  add_scaled(wide, 1.0 / norm, a.dim, a.unit + place * a.dim);
  if (a.raw != nullptr) add_scaled(wide, 1.0, a.dim, a.raw + place * a.dim);
}

// Neighbouring tokens of a row are read together, because memory is fastest in long pieces; their sums stay in
// the second-level cache meanwhile.
constexpr int64_t TOKENS_TOGETHER = 4;

// A place (image, token) belongs to one thread, which adds its rows in order.
inline void cosine_mean(const CosineArguments& a, const std::vector<ImageRows>& images, int threads,
                        InstructionSet set) {
  const int64_t pieces = (a.tokens + TOKENS_TOGETHER - 1) / TOKENS_TOGETHER;
  std::vector<TokenScratch> scratch(threads, TokenScratch(a.dim));
  parallel_for(static_cast<int64_t>(images.size()) * pieces, threads, [&](int64_t begin, int64_t end, int worker) {
    for (int64_t task = begin; task < end; ++task) {
      const ImageRows& group = images[task / pieces];
      const int64_t first = task % pieces * TOKENS_TOGETHER, last = std::min(a.tokens, first + TOKENS_TOGETHER);
      for (const int64_t row : group.rows) {
        for (int64_t j = first; j < last; ++j) {
          add_token(a, set, group.image, row, j, scratch[worker]);
        }
      }
    }
  });
}

}  // namespace fsfast
