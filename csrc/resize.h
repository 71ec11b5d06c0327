// Tables of a separable resize.
#pragma once

#include <algorithm>
#include <cstdint>

namespace fsfast {

// out[i] = sum over t < taps(i) of weights[i * width + t] * in[start[i] + t].
struct Axis {
  const int32_t* start;
  const float* weights;
  int64_t out, width, size;

  int64_t taps(int64_t i) const { return std::min(width, size - start[i]); }
  const float* row(int64_t i) const { return weights + i * width; }
  bool identity() const {
    if (out != size) return false;
    for (int64_t i = 0; i < out; ++i) {
      if (start[i] != i || weights[i * width] != 1.0f) return false;
      for (int64_t t = 1; t < taps(i); ++t) {
        if (weights[i * width + t] != 0.0f) return false;
      }
    }
    return true;
  }
};

// The columns of TILE rows are resized together: their values lie side by side, [x][TILE].
constexpr int64_t TILE = 16;

// Rows of a buffer begin at multiples of the widest vector, so that loops may overrun their ends.
constexpr int64_t padded(int64_t count) { return (count + TILE - 1) / TILE * TILE; }

}  // namespace fsfast
