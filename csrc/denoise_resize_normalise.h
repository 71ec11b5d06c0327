// denoise_resize_normalise: from a noisy image and its noise estimate to the encoder's pixels, in one pass.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "floats.h"
#include "parallel.h"

namespace fsfast {

// A [M, C, H, W] tensor in any memory order; strides in bytes.
struct Tensor4 {
  char* data;
  Dtype dtype;
  int64_t stride_m, stride_c, stride_y, stride_x;

  char* row(int64_t m, int64_t c, int64_t y) const { return data + m * stride_m + c * stride_c + y * stride_y; }
};

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

struct DenoiseArguments {
  Tensor4 x_t, eps_hat, out;  // eps_hat.data may be null
  float a, b;
  Axis rows, columns;
  float mean[3], inverse_std[3];
};

// pixel = (clamp(a x - b e, -1, 1) + 1) / 2; a NaN stays a NaN, because both comparisons are then false.
FSFAST_CLONES inline void denoise_row(const float* __restrict x, const float* __restrict e, int64_t count, float a,
                                      float b, float* __restrict pixel) {
  for (int64_t i = 0; i < count; ++i) {
    const float clean = a * x[i] - b * e[i];
    const float raised = clean < -1.0f ? -1.0f : clean;
    pixel[i] = ((raised > 1.0f ? 1.0f : raised) + 1.0f) * 0.5f;
  }
}

FSFAST_CLONES inline void weigh_rows(const float* __restrict rows, int64_t stride, const float* __restrict weights,
                                     int64_t taps, int64_t count, float* __restrict out) {
  for (int64_t x = 0; x < count; ++x) out[x] = weights[0] * rows[x];
  for (int64_t t = 1; t < taps; ++t) {
    const float weight = weights[t];
    const float* row = rows + t * stride;
    for (int64_t x = 0; x < count; ++x) out[x] += weight * row[x];
  }
}

FSFAST_CLONES inline void normalise_row(float* __restrict row, int64_t count, float mean, float inverse_std) {
  for (int64_t x = 0; x < count; ++x) row[x] = (row[x] - mean) * inverse_std;
}

// The columns of TILE rows are resized together: their values lie side by side, [x][TILE].
constexpr int TILE = 16;

FSFAST_CLONES inline void weigh_columns(const float* __restrict tile, const Axis& axis, float* __restrict out) {
  for (int64_t i = 0; i < axis.out; ++i) {
    const float* weights = axis.row(i);
    const float* from = tile + axis.start[i] * static_cast<int64_t>(TILE);
    const int64_t taps = axis.taps(i);
    float sum[TILE] = {};
    for (int64_t t = 0; t < taps; ++t) {
      for (int k = 0; k < TILE; ++k) sum[k] += weights[t] * from[t * TILE + k];
    }
    for (int k = 0; k < TILE; ++k) out[i * TILE + k] = sum[k];
  }
}

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

// Buffers of one thread, allocated once per call.
struct DenoiseScratch {
  std::vector<float> x, e, pixels, row, tile, resized;

  DenoiseScratch(const DenoiseArguments& arguments, int64_t band_rows)
      : x(arguments.columns.size),
        e(arguments.columns.size),
        pixels(arguments.columns.size * band_rows),
        row(std::max(arguments.columns.size, arguments.columns.out)),
        tile(arguments.columns.size * TILE),
        resized(arguments.columns.out * TILE) {}
};

class DenoiseResizeNormalise {
 public:
  DenoiseResizeNormalise(const DenoiseArguments& arguments, int64_t images, int threads)
      : a_(arguments), identity_(arguments.rows.identity() && arguments.columns.identity()) {
    const int64_t bands = (a_.rows.out + BAND - 1) / BAND;
    int64_t band_rows = 0;
    for (int64_t i = 0; i < bands; ++i) {
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
    load_floats(tensor.dtype, row, tensor.stride_x, a_.columns.size, buffer);
    return buffer;
  }

  void denoise(int64_t m, int64_t c, int64_t y, DenoiseScratch& scratch, float* pixel) const {
    const float* x = floats(a_.x_t, m, c, y, scratch.x.data());
    // Without an estimate the buffer holds zeros.
    const float* e = a_.eps_hat.data == nullptr ? scratch.e.data() : floats(a_.eps_hat, m, c, y, scratch.e.data());
    denoise_row(x, e, a_.columns.size, a_.a, a_.b, pixel);
  }

  void finish(int64_t m, int64_t c, int64_t y, float* row) const {
    normalise_row(row, a_.columns.out, a_.mean[c], a_.inverse_std[c]);
    store_floats(a_.out.dtype, row, a_.columns.out, a_.out.row(m, c, y), a_.out.stride_x);
  }

  void write_band(int64_t m, int64_t c, const Band& band, DenoiseScratch& scratch) const {
    if (identity_) {
      for (int64_t y = band.begin; y < band.end; ++y) {
        denoise(m, c, y, scratch, scratch.row.data());
        finish(m, c, y, scratch.row.data());
      }
      return;
    }
    for (int64_t y = band.first; y < band.last; ++y) {
      denoise(m, c, y, scratch, scratch.pixels.data() + (y - band.first) * a_.columns.size);
    }
    for (int64_t begin = band.begin; begin < band.end; begin += TILE) {
      write_tile(m, c, band, begin, std::min<int64_t>(TILE, band.end - begin), scratch);
    }
  }

  void write_tile(int64_t m, int64_t c, const Band& band, int64_t begin, int64_t count, DenoiseScratch& scratch) const {
    const int64_t width = a_.columns.size;
    float* row = scratch.row.data();
    for (int64_t k = 0; k < count; ++k) {
      const int64_t y = begin + k;
      const float* from = scratch.pixels.data() + (a_.rows.start[y] - band.first) * width;
      weigh_rows(from, width, a_.rows.row(y), a_.rows.taps(y), width, row);
      for (int64_t x = 0; x < width; ++x) scratch.tile[x * TILE + k] = row[x];
    }
    weigh_columns(scratch.tile.data(), a_.columns, scratch.resized.data());
    for (int64_t k = 0; k < count; ++k) {
      for (int64_t i = 0; i < a_.columns.out; ++i) row[i] = scratch.resized[i * TILE + k];
      finish(m, c, begin + k, row);
    }
  }

  const DenoiseArguments& a_;
  const bool identity_;
};

}  // namespace fsfast
