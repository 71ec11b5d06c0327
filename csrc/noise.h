// Exact integer Gaussian noise, one element at a time: what the loops over many elements must agree with.
#pragma once

#include <algorithm>
#include <cstdint>

#include "guide.h"
#include "philox.h"

namespace fsfast {


struct Noise {
  const uint64_t* thresholds;
  int64_t count;  // 2 K
  Guide guide;
};

// values[i] = float32(x high + centre_high) + float32(x low + centre_low) with x = i − centre, in float32 and with one
// rounding per bracket: fsfast.kernels.lines.
struct Line {
  float centre, high, centre_high, low, centre_low;
};

struct Images {
  const uint8_t* data;
  int64_t height, width;
  int64_t stride_b, stride_y, stride_x, stride_c;  // bytes
};

// #{j: U >= thresholds[j]} for the 64-bit U of one element, by bisection. The low word is generated only if
// it can matter.
inline int64_t count_exactly(const Noise& noise, const PhiloxStream& stream, int64_t element, uint32_t high) {
  const uint64_t* end = noise.thresholds + noise.count;
  const uint64_t first = static_cast<uint64_t>(high) << 32;
  const uint64_t* below = std::lower_bound(noise.thresholds, end, first);
  if (below == end || (*below >> 32) != high) return below - noise.thresholds;
  const uint32_t low = stream.block(static_cast<uint32_t>(element / 4), 1)[element % 4];
  return std::upper_bound(below, end, first | low) - noise.thresholds;
}

// Pixels of one run: their bytes stay in the first-level cache.
constexpr int64_t RUN = 4096;
// Whole blocks of at most 128 elements are read, from the beginning of a Philox block on.
constexpr int64_t RUN_BEFORE = 64, RUN_AFTER = 128;

// Consecutive pixels of one channel of one row.
struct Run {
  const Noise& noise;
  const PhiloxStream& stream;
  int64_t element;       // number of the first pixel in C, H, W order
  const uint8_t* pixel;  // bytes from −RUN_BEFORE to count + RUN_AFTER can be read
  int count;
  const Line* line;  // of the values, if they are float32 and lie on one
};

}  // namespace fsfast
