// The kernels without Python, for processors that are emulated: reads cases from standard input as test_aarch64.py
// writes them, and writes the bytes of all results to standard output.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "cosine_mean.h"
#include "denoise_resize_normalise.h"
#include "noisy_batch.h"

using namespace fsfast;

namespace {

const InstructionSet SET{};

void read(void* to, size_t bytes) {
  if (std::fread(to, 1, bytes, stdin) != bytes) std::abort();
}

// An array is its length in bytes and its bytes.
template <typename T>
std::vector<T> array() {
  uint64_t bytes;
  read(&bytes, sizeof bytes);
  std::vector<T> values(bytes / sizeof(T));
  read(values.data(), bytes);
  return values;
}

template <typename T>
void write(const std::vector<T>& values) {
  std::fwrite(values.data(), sizeof(T), values.size(), stdout);
}

template <typename Word>
void noise_case(const std::vector<int64_t>& p) {
  const int64_t height = p[1], width = p[2];
  const bool channels_last = p[4];
  const auto images = array<uint8_t>();
  const auto image = array<int32_t>();
  const auto seed = array<uint64_t>();
  const auto sample = array<uint32_t>();
  const auto thresholds = array<uint64_t>();
  const auto guide = array<uint32_t>();
  const auto values = array<Word>();
  const auto lines = array<Line>();
  const Images view{images.data(), height, width, height * width * 3, width * 3, 3, 1};
  const RowView rows{image.data(), seed.data(), sample.data(), static_cast<int64_t>(image.size())};
  const auto count = static_cast<int64_t>(thresholds.size());
  const Noise noise{thresholds.data(), count, Guide(guide.data(), static_cast<int64_t>(guide.size()), count)};
  std::vector<Word> out(image.size() * 3 * height * width);
  const auto kernel = channels_last ? noisy_batch<Word, 3> : noisy_batch<Word, 1>;
  kernel(view, rows, static_cast<uint32_t>(p[3]), noise, values.data(), lines.empty() ? nullptr : lines.data(), out.data(), 2, SET);
  write(out);
}

Tensor4 packed(const std::vector<char>& data, int64_t dtype, int64_t channels, int64_t height, int64_t width) {
  const int64_t size = dtype == 0 ? 4 : 2;
  return {const_cast<char*>(data.data()), static_cast<Dtype>(dtype), channels * height * width * size,
          height * width * size, width * size, size};
}

void resize_case(const std::vector<int64_t>& p) {
  const int64_t images = p[1], height = p[2], width = p[3], dtype = p[4], out_height = p[5], out_width = p[6];
  const auto numbers = array<float>();  // a, b, means, inverse standard deviations
  const auto x_t = array<char>(), eps_hat = array<char>();
  const auto row_start = array<int32_t>();
  const auto row_weights = array<float>();
  const auto column_start = array<int32_t>();
  const auto column_weights = array<float>();
  std::vector<char> out(images * 3 * out_height * out_width * (p[7] == 0 ? 4 : 2));
  DenoiseArguments arguments{images,
                             packed(x_t, dtype, 3, height, width),
                             packed(eps_hat, dtype, 3, height, width),
                             packed(out, p[7], 3, out_height, out_width),
                             numbers[0],
                             numbers[1],
                             {row_start.data(), row_weights.data(), out_height, p[8], height},
                             {column_start.data(), column_weights.data(), out_width, p[9], width},
                             {numbers[2], numbers[3], numbers[4]},
                             {numbers[5], numbers[6], numbers[7]},
                             SET,
                             false};
  arguments.identity = arguments.rows.identity() && arguments.columns.identity();
  denoise_resize_normalise(arguments, 2);
  write(out);
}

void cosine_case(const std::vector<int64_t>& p) {
  const int64_t rows = p[1], tokens = p[2], dim = p[3], images = p[5];
  const auto features = array<char>();
  const auto anchor = array<double>();
  std::vector<double> unit(images * tokens * dim), norm(images * tokens), raw(unit.size()), dots(rows * tokens);
  const CosineArguments arguments{features.data(), static_cast<Dtype>(p[4]), tokens,     dim,        anchor.data(),
                                  unit.data(),     norm.data(),              raw.data(), dots.data()};
  std::vector<ImageRows> groups(images);
  for (int64_t i = 0; i < images; ++i) groups[i].image = i;
  for (int64_t row = 0; row < rows; ++row) groups[row % images].rows.push_back(row);
  cosine_mean(arguments, groups, 2, SET);
  write(unit);
  write(norm);
  write(raw);
  write(dots);
}

}  // namespace

int main() {
  for (int more; (more = std::getc(stdin)) != EOF;) {
    std::ungetc(more, stdin);
    const auto parameters = array<int64_t>();
    switch (parameters[0]) {
      case 4: noise_case<uint32_t>(parameters); break;
      case 2: noise_case<uint16_t>(parameters); break;
      case 0: resize_case(parameters); break;
      case 1: cosine_case(parameters); break;
      default: return 1;
    }
  }
  return 0;
}
