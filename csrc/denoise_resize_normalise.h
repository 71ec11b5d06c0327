// denoise_resize_normalise: from a noisy image and its noise estimate to the encoder's pixels, in one pass.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "floats.h"
#include "instruction_sets.h"
#include "parallel.h"
#include "resize.h"

namespace fsfast {

// A [M, C, H, W] tensor in any memory order; strides in bytes.
struct Tensor4 {
  char* data;
  Dtype dtype;
  int64_t stride_m, stride_c, stride_y, stride_x;

  char* row(int64_t m, int64_t c, int64_t y) const { return data + m * stride_m + c * stride_c + y * stride_y; }
};

struct DenoiseArguments {
  Tensor4 x_t, eps_hat, out;  // eps_hat.data may be null
  float a, b;
  Axis rows, columns;
  float mean[3], inverse_std[3];
};

// Output rows that share their denoised input rows.
constexpr int64_t BAND = 2 * TILE;

struct Band {
  int64_t begin, end;   // output rows
  int64_t first, last;  // input rows

  Band(const Axis& rows, int64_t index)
      : begin(index * BAND), end(std::min(rows.out, begin + BAND)), first(rows.size), last(0) {
    for (int64_t i = begin; i < end; ++i) {
      first = std::min<int64_t>(first, rows.start[i]);
      last = std::max<int64_t>(last, rows.start[i] + rows.taps(i));
    }
  }
};

// Buffers of one thread, allocated once per call. Rows of pixels and of results are padded.
struct DenoiseScratch {
  std::vector<float> x, e, pixels, tile, rows;

  DenoiseScratch(const DenoiseArguments& arguments, int64_t band_rows)
      : x(arguments.columns.size),
        e(arguments.columns.size),
        pixels(padded(arguments.columns.size) * band_rows),
        tile(padded(arguments.columns.size) * TILE),
        rows(padded(arguments.columns.out) * TILE) {}
};

class DenoiseResizeNormalise {
 public:
  DenoiseResizeNormalise(const DenoiseArguments& arguments, InstructionSet set)
      : a_(arguments), set_(set), identity_(arguments.rows.identity() && arguments.columns.identity()) {}

  void run(int64_t images, int threads) const {
    const int64_t bands = (a_.rows.out + BAND - 1) / BAND;
    int64_t band_rows = 1;
    for (int64_t i = 0; i < bands && !identity_; ++i) {
      const Band band(a_.rows, i);
      band_rows = std::max(band_rows, band.last - band.first);
    }
    const int64_t tasks = images * 3 * bands;
    const int64_t workers = std::max<int64_t>(1, std::min<int64_t>(threads, tasks));
    std::vector<DenoiseScratch> scratch(workers, DenoiseScratch(a_, band_rows));
    parallel_for(tasks, threads, [&](int64_t begin, int64_t end, int worker) {
      for (int64_t task = begin; task < end; ++task) {
        write_band(task / bands / 3, task / bands % 3, Band(a_.rows, task % bands), scratch[worker]);
      }
    });
  }

 private:
  // The floats of one row: in place if that is what they are, otherwise converted to `buffer`.
  const float* floats(const Tensor4& tensor, int64_t m, int64_t c, int64_t y, float* buffer) const {
    const char* row = tensor.row(m, c, y);
    if (tensor.dtype == Dtype::FLOAT32 && tensor.stride_x == sizeof(float)) return reinterpret_cast<const float*>(row);
    FSFAST_FUNCTION(set_, load_floats)(tensor.dtype, row, tensor.stride_x, a_.columns.size, buffer);
    return buffer;
  }

  void denoise(int64_t m, int64_t c, int64_t y, DenoiseScratch& scratch, float* pixel) const {
    const float* x = floats(a_.x_t, m, c, y, scratch.x.data());
    // Without an estimate the buffer holds zeros.
    const float* e = a_.eps_hat.data == nullptr ? scratch.e.data() : floats(a_.eps_hat, m, c, y, scratch.e.data());
    FSFAST_FUNCTION(set_, denoise_row)(x, e, a_.columns.size, a_.a, a_.b, pixel);
  }

  void finish(int64_t m, int64_t c, int64_t y, float* row) const {
    FSFAST_FUNCTION(set_, normalise_row)(row, a_.columns.out, a_.mean[c], a_.inverse_std[c]);
    FSFAST_FUNCTION(set_, store_floats)(a_.out.dtype, row, a_.columns.out, a_.out.row(m, c, y), a_.out.stride_x);
  }

  void write_band(int64_t m, int64_t c, const Band& band, DenoiseScratch& scratch) const {
    if (identity_) {
      for (int64_t y = band.begin; y < band.end; ++y) {
        denoise(m, c, y, scratch, scratch.rows.data());
        finish(m, c, y, scratch.rows.data());
      }
      return;
    }
    const int64_t stride = padded(a_.columns.size), out_stride = padded(a_.columns.out);
    for (int64_t y = band.first; y < band.last; ++y) {
      denoise(m, c, y, scratch, scratch.pixels.data() + (y - band.first) * stride);
    }
    for (int64_t begin = band.begin; begin < band.end; begin += TILE) {
      FSFAST_FUNCTION(set_, weigh_rows)(scratch.pixels.data(), stride, a_.rows, band.first, begin, band.end - 1,
                                        scratch.tile.data());
      FSFAST_FUNCTION(set_, weigh_columns)(scratch.tile.data(), a_.columns, scratch.rows.data(), out_stride);
      for (int64_t k = 0; k < std::min(TILE, band.end - begin); ++k) {
        finish(m, c, begin + k, scratch.rows.data() + k * out_stride);
      }
    }
  }

  const DenoiseArguments& a_;
  const InstructionSet set_;
  const bool identity_;
};

}  // namespace fsfast
