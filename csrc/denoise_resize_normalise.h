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
  int64_t images;
  Tensor4 x_t, eps_hat, out;  // eps_hat.data may be null
  float a, b;
  Axis rows, columns;
  float mean[3], inverse_std[3];
  InstructionSet set;
  // Whether there is no resize: rows then pass on their own.
  bool identity;
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

// The floats of one row: in place if that is what they are, otherwise converted to `buffer`.
inline const float* row_floats(const DenoiseArguments& a, const Tensor4& tensor, int64_t m, int64_t c, int64_t y,
                               float* buffer) {
  const char* row = tensor.row(m, c, y);
  if (tensor.dtype == Dtype::FLOAT32 && tensor.stride_x == sizeof(float)) return reinterpret_cast<const float*>(row);
  FSFAST_FUNCTION(a.set, load_floats)(tensor.dtype, row, tensor.stride_x, a.columns.size, buffer);
  return buffer;
}

inline void denoise(const DenoiseArguments& a, int64_t m, int64_t c, int64_t y, DenoiseScratch& scratch, float* pixel) {
  const float* x = row_floats(a, a.x_t, m, c, y, scratch.x.data());
  // Without an estimate the buffer holds zeros.
  const float* e = a.eps_hat.data == nullptr ? scratch.e.data() : row_floats(a, a.eps_hat, m, c, y, scratch.e.data());
  FSFAST_FUNCTION(a.set, denoise_row)(x, e, a.columns.size, a.a, a.b, pixel);
}

inline void normalise(const DenoiseArguments& a, int64_t m, int64_t c, int64_t y, float* row) {
  FSFAST_FUNCTION(a.set, normalise_row)(row, a.columns.out, a.mean[c], a.inverse_std[c]);
  FSFAST_FUNCTION(a.set, store_floats)(a.out.dtype, row, a.columns.out, a.out.row(m, c, y), a.out.stride_x);
}

inline void write_band(const DenoiseArguments& a, int64_t m, int64_t c, const Band& band, DenoiseScratch& scratch) {
  if (a.identity) {
    for (int64_t y = band.begin; y < band.end; ++y) {
      denoise(a, m, c, y, scratch, scratch.rows.data());
      normalise(a, m, c, y, scratch.rows.data());
    }
    return;
  }
  const int64_t stride = padded(a.columns.size), out_stride = padded(a.columns.out);
  for (int64_t y = band.first; y < band.last; ++y) {
    denoise(a, m, c, y, scratch, scratch.pixels.data() + (y - band.first) * stride);
  }
  for (int64_t begin = band.begin; begin < band.end; begin += TILE) {
    FSFAST_FUNCTION(a.set, weigh_rows)(scratch.pixels.data(), stride, a.rows, band.first, begin, band.end - 1,
                                       scratch.tile.data());
    FSFAST_FUNCTION(a.set, weigh_columns)(scratch.tile.data(), a.columns, scratch.rows.data(), out_stride);
    for (int64_t k = 0; k < std::min(TILE, band.end - begin); ++k) {
      normalise(a, m, c, begin + k, scratch.rows.data() + k * out_stride);
    }
  }
}

inline void denoise_resize_normalise(const DenoiseArguments& a, int threads) {
  const int64_t bands = (a.rows.out + BAND - 1) / BAND;
  int64_t band_rows = 1;
  for (int64_t i = 0; i < bands && !a.identity; ++i) {
    const Band band(a.rows, i);
    band_rows = std::max(band_rows, band.last - band.first);
  }
  const int64_t tasks = a.images * 3 * bands;
  const int64_t workers = std::max<int64_t>(1, std::min<int64_t>(threads, tasks));
  std::vector<DenoiseScratch> scratch(workers, DenoiseScratch(a, band_rows));
  parallel_for(tasks, threads, [&](int64_t begin, int64_t end, int worker) {
    for (int64_t task = begin; task < end; ++task) {
      write_band(a, task / bands / 3, task / bands % 3, Band(a.rows, task % bands), scratch[worker]);
    }
  });
}

}  // namespace fsfast
