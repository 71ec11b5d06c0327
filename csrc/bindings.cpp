// fsfast.kernels._cpu: the kernels on plain arrays. fsfast.kernels.cpu checks arguments and explains errors;
// the checks here only make sure that a wrong call cannot read or write out of bounds.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <stdexcept>
#include <string>

#include "cosine_mean.h"
#include "denoise_resize_normalise.h"
#include "instruction_sets.h"
#include "noisy_batch.h"
#include "philox.h"

namespace py = pybind11;

namespace {

using namespace fsfast;

void require(bool condition, const char* what) {
  if (!condition) throw std::invalid_argument(std::string("fsfast.kernels._cpu: ") + what);
}

template <typename T>
const T* packed(const py::array& array, int64_t count, const char* what) {
  require(py::isinstance<py::array_t<T>>(array), what);
  require((array.flags() & py::array::c_style) && array.size() == count, what);
  return static_cast<const T*>(array.data());
}

template <typename T>
T* packed_out(py::array& array, int64_t count, const char* what) {
  packed<T>(array, count, what);
  return static_cast<T*>(array.mutable_data());
}

// More threads, images or blocks than that are a mistake, and products of sizes stay within 64 bits.
constexpr int64_t MOST_THREADS = 1 << 12, MOST_IMAGES = 1 << 30, MOST_BLOCKS = 1 << 26;

void require_threads(int threads) { require(threads >= 1 && threads <= MOST_THREADS, "threads"); }

// An array itself: a conversion would be gone before the kernel runs.
py::array array_of(const py::object& object, const char* what) {
  require(py::isinstance<py::array>(object), what);
  return py::reinterpret_borrow<py::array>(object);
}

// Either a null pointer for None, or the elements.
template <typename T>
T* optional_out(const py::object& object, int64_t count, const char* what) {
  if (object.is_none()) return nullptr;
  py::array array = array_of(object, what);
  return packed_out<T>(array, count, what);
}

InstructionSet set_of(size_t place) {
  require(place < instruction_sets().size(), "instruction set");
  return static_cast<InstructionSet>(place);
}

// Memory order of images: [M, 3, H, W] or [M, H, W, 3].
enum class Layout { NCHW, NHWC };

Layout layout_of(const std::string& name) {
  require(name == "nchw" || name == "nhwc", "layout");
  return name == "nhwc" ? Layout::NHWC : Layout::NCHW;
}

// `out` is written from its first byte to its last: it must be as large as what is written.
void require_images(const py::array& out, int64_t m, int64_t height, int64_t width, Layout layout) {
  const std::array<int64_t, 4> planes{m, 3, height, width}, pixels{m, height, width, 3};
  const auto& wanted = layout == Layout::NHWC ? pixels : planes;
  require(out.ndim() == 4 && std::equal(wanted.begin(), wanted.end(), out.shape()), "out shape");
  require((out.flags() & py::array::c_style) && out.writeable(), "out contiguity");
}

// The bits of bfloat16 are carried as uint16.
Dtype dtype_of(const py::array& array) {
  if (py::isinstance<py::array_t<float>>(array)) return Dtype::FLOAT32;
  if (py::isinstance<py::array_t<uint16_t>>(array)) return Dtype::BFLOAT16;
  require(array.dtype().kind() == 'f' && array.itemsize() == 2, "wanted float32, float16 or uint16");
  return Dtype::FLOAT16;
}

py::array philox(uint64_t seed, const py::array& counters) {
  require(counters.ndim() == 2 && counters.shape(1) == 4, "counters");
  const uint32_t* from = packed<uint32_t>(counters, counters.size(), "counters");
  py::array_t<uint32_t> words({counters.shape(0), py::ssize_t{4}});
  for (py::ssize_t i = 0; i < counters.shape(0); ++i) {
    const std::array<uint32_t, 4> counter{from[4 * i], from[4 * i + 1], from[4 * i + 2], from[4 * i + 3]};
    const auto block = philox4x32(counter, static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
    std::copy(block.begin(), block.end(), words.mutable_data(i, 0));
  }
  return words;
}

// Words of half 0: [count, 4].
py::array philox_blocks(uint64_t seed, uint32_t first, uint32_t sample, uint32_t stream, int count, size_t set) {
  require(count >= 0 && count <= MOST_BLOCKS, "count");
  // Whole vectors are written.
  std::vector<uint32_t> buffer(4 * count + 128);
  FSFAST_FUNCTION(set_of(set), philox_blocks)(PhiloxStream(seed, sample, stream), first, count, buffer.data());
  py::array_t<uint32_t> words({py::ssize_t{count}, py::ssize_t{4}});
  std::copy_n(buffer.begin(), 4 * count, words.mutable_data());
  return words;
}

// `guide` is that of fsfast.kernels.float_guide, or empty.
Noise noise_of(const py::array& thresholds, const py::array& guide) {
  const int64_t count = thresholds.size();
  const Noise noise{packed<uint64_t>(thresholds, count, "thresholds"), count,
                    Guide(packed<uint32_t>(guide, guide.size(), "guide"), guide.size(), count)};
  require(noise.guide.stays_within(count), "guide entries");
  return noise;
}

void noisy_batch_binding(const py::array& images, const py::array& row_image, const py::array& row_seed,
                         const py::array& row_sample, uint32_t stream, const py::array& thresholds,
                         const py::array& guide, const py::array& values, const py::array& lines,
                         const std::string& layout_name, py::array& out, int threads, size_t set_place) {
  const Layout layout = layout_of(layout_name);
  const InstructionSet set = set_of(set_place);
  require_threads(threads);
  require(images.ndim() == 4 && images.shape(3) == 3 && py::isinstance<py::array_t<uint8_t>>(images), "images");
  const Images view{static_cast<const uint8_t*>(images.data()), images.shape(1),   images.shape(2),
                    images.strides(0),  images.strides(1), images.strides(2), images.strides(3)};
  const int64_t rows = row_image.size();
  const RowView row_view{packed<int32_t>(row_image, rows, "rows.image"), packed<uint64_t>(row_seed, rows, "rows.seed"),
                         packed<uint32_t>(row_sample, rows, "rows.sample"), rows};
  for (int64_t i = 0; i < rows; ++i) require(row_view.image[i] < images.shape(0), "rows.image range");
  const Noise noise = noise_of(thresholds, guide);
  require(values.size() == 3 * (256 + noise.count) && values.dtype().equal(out.dtype()), "values");
  require(values.flags() & py::array::c_style, "values");
  require_images(out, rows, view.height, view.width, layout);
  require(lines.size() == 0 || lines.size() == 3 * sizeof(Line) / sizeof(float), "lines");
  const float* line = packed<float>(lines, lines.size(), "lines");
  const void* table = values.data();
  void* to = out.mutable_data();
  const bool wide = dtype_of(out) == Dtype::FLOAT32;
  const auto run = [&](auto kernel, auto word) {
    using Word = decltype(word);
    kernel(view, row_view, stream, noise, static_cast<const Word*>(table),
           lines.size() ? reinterpret_cast<const Line*>(line) : nullptr, static_cast<Word*>(to), threads, set);
  };
  const py::gil_scoped_release release;
  const bool pixels = layout == Layout::NHWC;
  if (wide && pixels) run(noisy_batch<uint32_t, 3>, uint32_t{});
  if (wide && !pixels) run(noisy_batch<uint32_t, 1>, uint32_t{});
  if (!wide && pixels) run(noisy_batch<uint16_t, 3>, uint16_t{});
  if (!wide && !pixels) run(noisy_batch<uint16_t, 1>, uint16_t{});
}

Tensor4 tensor_of(const py::array& array, const void* data, Layout layout) {
  require(array.ndim() == 4, "wanted four axes");
  const bool last = layout == Layout::NHWC;
  const int channel = last ? 3 : 1, y = last ? 1 : 2, x = last ? 2 : 3;
  return {static_cast<char*>(const_cast<void*>(data)), dtype_of(array), array.strides(0), array.strides(channel),
          array.strides(y), array.strides(x)};
}

Axis axis_of(const py::array& start, const py::array& weights, int64_t size) {
  require(weights.ndim() == 2 && weights.shape(0) == start.size() && weights.shape(1) > 0, "resize table");
  const Axis axis{packed<int32_t>(start, start.size(), "resize starts"),
                  packed<float>(weights, weights.size(), "resize weights"), start.size(), weights.shape(1), size};
  for (int64_t i = 0; i < axis.out; ++i) require(axis.start[i] >= 0 && axis.start[i] < size, "resize starts");
  return axis;
}

void denoise_resize_normalise_binding(const py::array& x_t, const py::object& eps_hat, double a, double b,
                                      const py::array& row_start, const py::array& row_weights,
                                      const py::array& column_start, const py::array& column_weights,
                                      const std::array<double, 3>& mean, const std::array<double, 3>& std,
                                      const std::string& layout_name, py::array& out, int threads,
                                      size_t set_place) {
  const Layout layout = layout_of(layout_name);
  DenoiseArguments arguments{};
  require_threads(threads);
  arguments.set = set_of(set_place);
  arguments.x_t = tensor_of(x_t, x_t.data(), Layout::NCHW);
  arguments.images = x_t.shape(0);
  require(x_t.shape(1) == 3, "x_t channels");
  arguments.rows = axis_of(row_start, row_weights, x_t.shape(2));
  arguments.columns = axis_of(column_start, column_weights, x_t.shape(3));
  if (!eps_hat.is_none()) {
    const py::array eps = array_of(eps_hat, "eps_hat");
    arguments.eps_hat = tensor_of(eps, eps.data(), Layout::NCHW);
    require(eps.shape(0) == x_t.shape(0) && eps.shape(1) >= 3 && eps.shape(2) == x_t.shape(2) &&
                eps.shape(3) == x_t.shape(3),
            "eps_hat shape");
  }
  arguments.identity = arguments.rows.identity() && arguments.columns.identity();
  require_images(out, arguments.images, arguments.rows.out, arguments.columns.out, layout);
  arguments.out = tensor_of(out, out.mutable_data(), layout);
  arguments.a = static_cast<float>(a);
  arguments.b = static_cast<float>(b);
  for (int c = 0; c < 3; ++c) {
    arguments.mean[c] = static_cast<float>(mean[c]);
    arguments.inverse_std[c] = static_cast<float>(1.0 / std[c]);
  }
  const py::gil_scoped_release release;
  denoise_resize_normalise(arguments, threads);
}

// Stable: the rows of an image stay in order.
std::vector<ImageRows> rows_by_image(const int32_t* image, int64_t rows, int64_t images) {
  std::vector<ImageRows> groups(images);
  for (int64_t row = 0; row < rows; ++row) {
    require(image[row] < images, "rows.image range");
    if (image[row] >= 0) groups[image[row]].rows.push_back(row);
  }
  for (int64_t i = 0; i < images; ++i) groups[i].image = i;
  groups.erase(std::remove_if(groups.begin(), groups.end(), [](const ImageRows& group) { return group.rows.empty(); }),
               groups.end());
  return groups;
}

void cosine_mean_binding(const py::array& features, const py::array& row_image, int64_t images,
                         const py::object& anchor, const py::object& unit, const py::object& norm,
                         const py::object& raw, const py::object& dots, int threads, size_t set_place) {
  const InstructionSet set = set_of(set_place);
  require_threads(threads);
  require(images >= 0 && images <= MOST_IMAGES, "images");
  require(features.ndim() == 3 && (features.flags() & py::array::c_style), "features");
  const int64_t rows = features.shape(0);
  CosineArguments a{};
  a.features = static_cast<const char*>(features.data());
  a.dtype = dtype_of(features);
  a.tokens = features.shape(1);
  a.dim = features.shape(2);
  const int64_t size = images * a.tokens * a.dim;
  if (!anchor.is_none()) a.anchor = packed<double>(array_of(anchor, "anchor"), size, "anchor");
  a.unit = optional_out<double>(unit, size, "sums.unit");
  a.norm = optional_out<double>(norm, images * a.tokens, "sums.norm");
  a.raw = optional_out<double>(raw, size, "sums.raw");
  a.dots = optional_out<double>(dots, rows * a.tokens, "dots");
  require((a.unit == nullptr) == (a.norm == nullptr), "sums");
  require((a.anchor == nullptr) == (a.dots == nullptr), "anchor and dots");
  const auto groups = rows_by_image(packed<int32_t>(row_image, rows, "rows.image"), rows, images);
  const py::gil_scoped_release release;
  cosine_mean(a, groups, threads, set);
}

}  // namespace

PYBIND11_MODULE(_cpu, module) {
  module.doc() = "C++ kernels; call them through fsfast.kernels.cpu.";
  module.def("philox", &philox, py::arg("seed"), py::arg("counters"));
  module.def("philox_blocks", &philox_blocks, py::arg("seed"), py::arg("first"), py::arg("sample"),
             py::arg("stream"), py::arg("count"), py::arg("instruction_set"));
  module.attr("INSTRUCTION_SETS") = py::tuple(py::cast(instruction_sets()));
  using py::arg;
  const py::kw_only named;
  module.def("noisy_batch", &noisy_batch_binding, named, arg("images"), arg("row_image"), arg("row_seed"),
             arg("row_sample"), arg("stream"), arg("thresholds"), arg("guide"), arg("values"), arg("lines"),
             arg("layout"), arg("out"), arg("threads"), arg("instruction_set"));
  module.def("denoise_resize_normalise", &denoise_resize_normalise_binding, named, arg("x_t"), arg("eps_hat"),
             arg("a"), arg("b"), arg("row_start"), arg("row_weights"), arg("column_start"), arg("column_weights"),
             arg("mean"), arg("std"), arg("layout"), arg("out"), arg("threads"), arg("instruction_set"));
  module.def("cosine_mean", &cosine_mean_binding, named, arg("features"), arg("row_image"), arg("images"),
             arg("anchor"), arg("unit"), arg("norm"), arg("raw"), arg("dots"), arg("threads"),
             arg("instruction_set"));
}
