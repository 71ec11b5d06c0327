// noisy_batch: exact integer Gaussian noise on uint8 images, and the float value of every noisy pixel.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "floats.h"
#include "parallel.h"
#include "philox.h"

#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace fsfast {

// The thresholds and the guide of fsfast.kernels.tables.noise_tables.
struct Noise {
  const uint64_t* thresholds;
  int64_t count;  // 2 K
  const uint64_t* guide;
  int fraction_bits;
  uint32_t tail;
};

struct Images {
  const uint8_t* data;
  int64_t height, width;
  int64_t stride_b, stride_y, stride_x, stride_c;  // bytes
};

// Distance of the high word from the nearer end of [0, 2^32).
inline uint32_t tail_distance(uint32_t high) {
  const uint32_t upper = static_cast<uint32_t>(static_cast<int32_t>(high) >> 31);
  return (high ^ upper) & 0x7fffffffu;
}

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

// Consecutive pixels of one channel of one row.
struct Run {
  const Noise& noise;
  const PhiloxStream& stream;
  int64_t element;  // number of the first pixel in C, H, W order
  const uint8_t* pixel;
  int count;
};

// The same code once per instruction set; compilers do not find the widening multiplication on their own.
namespace baseline {
#define LANES 2
#if defined(__SSE2__)
#define CHAINS 2
#define MULTIPLY(a, b) ((Vector)_mm_mul_epu32((__m128i)(a), (__m128i)(b)))
#elif defined(__aarch64__)
#define CHAINS 4
#define MULTIPLY(a, b) ((Vector)vmull_u32(vmovn_u64((uint64x2_t)(a)), vmovn_u64((uint64x2_t)(b))))
#else
#define CHAINS 2
#define MULTIPLY(a, b) (((a) & 0xffffffffu) * ((b) & 0xffffffffu))
#endif
#include "philox_lanes.inc"
#include "noisy_run.inc"
#undef LANES
#undef CHAINS
#undef MULTIPLY
}  // namespace baseline

#if FSFAST_X86_GCC
#pragma GCC push_options
#pragma GCC target("arch=x86-64-v3")
namespace avx2 {
#define LANES 4
#define CHAINS 2
#define MULTIPLY(a, b) ((Vector)_mm256_mul_epu32((__m256i)(a), (__m256i)(b)))
#include "philox_lanes.inc"
#include "noisy_run.inc"
#undef LANES
#undef CHAINS
#undef MULTIPLY
}  // namespace avx2
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4")
namespace avx512 {
#define LANES 8
#define CHAINS 4
// The unmasked intrinsic of GCC 12 warns about its own uninitialised variable.
#define MULTIPLY(a, b) ((Vector)_mm512_maskz_mul_epu32(0xff, (__m512i)(a), (__m512i)(b)))
#include "philox_lanes.inc"
#include "noisy_run.inc"
#undef LANES
#undef CHAINS
#undef MULTIPLY
}  // namespace avx512
#pragma GCC pop_options
#endif

// The functions above for one instruction set and one type of output.
template <typename Word, int STEP>
struct NoiseFunctions {
  decltype(&baseline::philox_blocks) philox_blocks;
  decltype(&baseline::gather_pixels) gather_pixels;
  decltype(&baseline::write_run<Word, STEP>) write_run;
};

// What this processor can run, the fastest last.
template <typename Word, int STEP>
std::vector<NoiseFunctions<Word, STEP>> noise_functions() {
  std::vector<NoiseFunctions<Word, STEP>> usable;
  usable.push_back({baseline::philox_blocks, baseline::gather_pixels, baseline::write_run<Word, STEP>});
#if FSFAST_X86_GCC
  if (__builtin_cpu_supports("x86-64-v3")) {
    usable.push_back({avx2::philox_blocks, avx2::gather_pixels, avx2::write_run<Word, STEP>});
  }
  if (__builtin_cpu_supports("x86-64-v4")) {
    usable.push_back({avx512::philox_blocks, avx512::gather_pixels, avx512::write_run<Word, STEP>});
  }
#endif
  return usable;
}

struct RowView {
  const int32_t* image;
  const uint64_t* seed;
  const uint32_t* sample;
  int64_t count;
};

// Pixels of one run: their bytes stay in the first-level cache.
constexpr int64_t RUN = 4096;

// values: [3, 256 + 2K] words of the output's width. out: [M, 3, H, W] for STEP 1, [M, H, W, 3] for STEP 3.
// variant: an index of noise_functions().
template <typename Word, int STEP>
void noisy_batch(const Images& images, const RowView& rows, uint32_t stream, const Noise& noise, const Word* values,
                 Word* out, int threads, size_t variant) {
  const NoiseFunctions<Word, STEP> functions = noise_functions<Word, STEP>().at(variant);
  const int64_t pixels = images.height * images.width;
  const int64_t runs = (pixels + RUN - 1) / RUN;
  parallel_for(rows.count * runs, threads, [&](int64_t begin, int64_t end, int) {
    alignas(64) uint8_t pixel[RUN];
    for (int64_t task = begin; task < end; ++task) {
      const int64_t row = task / runs, first = task % runs * RUN, count = std::min(RUN, pixels - first);
      const PhiloxStream philox(rows.seed[row], rows.sample[row], stream);
      for (int64_t c = 0; c < 3; ++c) {
        Word* to = out + row * 3 * pixels + (STEP == 1 ? c * pixels + first : 3 * first + c);
        if (rows.image[row] < 0) {
          for (int64_t i = 0; i < count; ++i) to[i * STEP] = 0;
          continue;
        }
        const uint8_t* channel = images.data + rows.image[row] * images.stride_b + c * images.stride_c;
        functions.gather_pixels(images, channel, first, count, pixel);
        functions.write_run({noise, philox, c * pixels + first, pixel, static_cast<int>(count)},
                            values + c * (256 + noise.count), to);
      }
    }
  });
}

}  // namespace fsfast
