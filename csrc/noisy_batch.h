// noisy_batch: exact integer Gaussian noise on uint8 images, and the float value of every noisy pixel.
#pragma once

#include <algorithm>
#include <cstdint>

#include "instruction_sets.h"
#include "noise.h"
#include "parallel.h"
#include "philox.h"

namespace fsfast {

struct RowView {
  const int32_t* image;
  const uint64_t* seed;
  const uint32_t* sample;
  int64_t count;
};

// lines: [3] or null. values: [3, 256 + 2K] words of the output's width. out: [M, 3, H, W] for STEP 1, [M, H, W, 3] for STEP 3.
template <typename Word, int STEP>
void noisy_batch(const Images& images, const RowView& rows, uint32_t stream, const Noise& noise, const Word* values,
                 const Line* lines, Word* out, int threads, InstructionSet set) {
  const auto gather_pixels = FSFAST_FUNCTION(set, gather_pixels);
  const auto write_run = FSFAST_FUNCTION(set, write_run<Word, STEP>);
  const int64_t pixels = images.height * images.width;
  const int64_t runs = (pixels + RUN - 1) / RUN;
  parallel_for(rows.count * runs, threads, [&](int64_t begin, int64_t end, int) {
    alignas(64) uint8_t buffer[RUN_BEFORE + RUN + RUN_AFTER] = {};
    uint8_t* pixel = buffer + RUN_BEFORE;
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
        gather_pixels(images, channel, first, count, pixel);
        write_run({noise, philox, c * pixels + first, pixel, static_cast<int>(count), lines ? lines + c : nullptr},
                  values + c * (256 + noise.count), to);
      }
    }
  });
}

}  // namespace fsfast
