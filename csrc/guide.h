// The look-up table of fsfast.kernels.float_guide: how many thresholds lie below a uniform number, by its high word.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <mutex>
#include <stdexcept>
#include <vector>

#include "floats.h"

namespace fsfast {

// Where a high word stands in a guide: the leading bits of its float32, as a signed number.
FSFAST_INLINE uint32_t bucket_of(uint32_t high, int fraction_bits) {
  return bits_of(static_cast<float>(static_cast<int32_t>(high))) >> (23 - fraction_bits);
}

// The first and the last high word of buckets that follow one another; (0, 0) where a bucket has none.
struct Buckets {
  uint32_t begin;
  std::vector<uint32_t> first, last;
};

// All buckets that have high words.
inline std::vector<Buckets> all_buckets(int fraction_bits) {
  // The smallest distance from 0 whose float lies beyond the bucket. Halfway between two floats it is rounded to the
  // even one, which the smallest of a bucket is.
  const auto first_beyond = [&](uint32_t bucket) {
    const uint32_t next = ((bucket & ((256u << fraction_bits) - 1)) + 1) << (23 - fraction_bits);
    const double smallest = float_of(next), below = float_of(next - 1);
    return std::max<int64_t>(1, static_cast<int64_t>(std::ceil((smallest + below) / 2)));
  };
  // 0, and the signed high words beyond it on either side.
  std::vector<Buckets> ranges{{0, {0}, {0}}};
  for (const int64_t sign : {1, -1}) {
    const int64_t farthest = sign > 0 ? INT64_C(0x7fffffff) : INT64_C(0x80000000);
    ranges.push_back({bucket_of(static_cast<uint32_t>(sign), fraction_bits), {}, {}});
    Buckets& range = ranges.back();
    for (int64_t near = 1; near <= farthest;) {
      const uint32_t bucket = bucket_of(static_cast<uint32_t>(sign * near), fraction_bits);
      const int64_t far = std::min(first_beyond(bucket) - 1, farthest);
      range.first.resize(bucket - range.begin);
      range.last.resize(bucket - range.begin);
      range.first.push_back(static_cast<uint32_t>(sign > 0 ? near : -far));
      range.last.push_back(static_cast<uint32_t>(sign > 0 ? far : -near));
      near = far + 1;
    }
  }
  return ranges;
}

// entries[bucket] + (high >> dropped_bits) has the number of thresholds above `field_bits` lower bits. They are 0 where
// the low word decides.
struct Guide {
  static constexpr int LEAST = 4, MOST = 11;  // fraction_bits

  const uint32_t* entries;  // none where thresholds lie too densely
  int fraction_bits, field_bits, dropped_bits;

  // Throws std::invalid_argument if `size` is none of a guide.
  Guide(const uint32_t* entries_, int64_t size, int64_t thresholds) : entries(size ? entries_ : nullptr) {
    fraction_bits = LEAST;
    while (fraction_bits < MOST && (INT64_C(512) << fraction_bits) < size) ++fraction_bits;
    if (size && size != INT64_C(512) << fraction_bits) throw std::invalid_argument("fsfast: guide size");
    field_bits = 31;
    while (field_bits > 0 && thresholds >> (32 - field_bits)) --field_bits;
    dropped_bits = std::max(0, 31 - fraction_bits - field_bits);
  }

  bool decides(uint32_t entry, uint32_t high) const {
    return ((entry + (high >> dropped_bits)) & ((1u << field_bits) - 1)) != 0;
  }

  // Whether no high word whatsoever has a count of more than `thresholds`.
  bool stays_within(int64_t thresholds) const {
    if (!entries) return true;
    uint32_t largest = 0, ordered = 1;
    for (const Buckets& range : made_buckets(fraction_bits)) {
      const uint32_t* entry = entries + range.begin;
      const uint32_t *first = range.first.data(), *last = range.last.data();
      for (size_t i = 0; i < range.first.size(); ++i) {
        const uint32_t low = entry[i] + (first[i] >> dropped_bits), high = entry[i] + (last[i] >> dropped_bits);
        ordered &= low <= high;
        largest = std::max(largest, high);
      }
    }
    return ordered && largest >> field_bits <= static_cast<uint64_t>(thresholds);
  }

 private:
  static const std::vector<Buckets>& made_buckets(int fraction_bits) {
    static std::array<std::once_flag, MOST + 1> once;
    static std::array<std::vector<Buckets>, MOST + 1> made;
    std::call_once(once[fraction_bits], [&] { made[fraction_bits] = all_buckets(fraction_bits); });
    return made[fraction_bits];
  }
};

}  // namespace fsfast
