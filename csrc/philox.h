// Philox4x32-10 (Salmon, Moraes, Dror and Shaw: Parallel Random Numbers: As Easy as 1, 2, 3. SC 2011).
#pragma once

#include <array>
#include <cstdint>

namespace fsfast {

constexpr uint64_t PHILOX_M0 = 0xD2511F53u, PHILOX_M1 = 0xCD9E8D57u;
constexpr uint32_t PHILOX_W0 = 0x9E3779B9u, PHILOX_W1 = 0xBB67AE85u;

// One 128-bit counter under one 64-bit key. Words are kept in 64-bit variables of which the upper half is
// left dirty: the next multiplication reads the lower half only, and a vector then needs no merging.
inline std::array<uint32_t, 4> philox4x32(const std::array<uint32_t, 4>& counter, uint32_t key0, uint32_t key1) {
  uint64_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = (c0 & 0xffffffffu) * PHILOX_M0;
    const uint64_t product1 = (c2 & 0xffffffffu) * PHILOX_M1;
    c0 = (product1 >> 32) ^ c1 ^ key0;
    c2 = (product0 >> 32) ^ c3 ^ key1;
    c1 = product1;
    c3 = product0;
    key0 += PHILOX_W0;
    key1 += PHILOX_W1;
  }
  return {static_cast<uint32_t>(c0), static_cast<uint32_t>(c1), static_cast<uint32_t>(c2),
          static_cast<uint32_t>(c3)};
}

constexpr uint32_t upper(uint64_t product) { return static_cast<uint32_t>(product >> 32); }
constexpr uint32_t lower(uint64_t product) { return static_cast<uint32_t>(product); }

// What the counters of one noise vector have in common: everything but the block's index.
struct PhiloxStream {
  uint32_t key0, key1, sample, stream;
  // What the first three rounds add to every block of half 0: half of their products do not depend on the index.
  uint32_t second0, second2, third2;

  PhiloxStream(uint64_t seed, uint32_t sample_, uint32_t stream_)
      : key0(lower(seed)), key1(upper(seed)), sample(sample_), stream(stream_) {
    const uint64_t first1 = stream * PHILOX_M1;
    const uint64_t second0_product = (upper(first1) ^ sample ^ key0) * PHILOX_M0;
    second0 = lower(first1) ^ (key0 + PHILOX_W0);
    second2 = upper(second0_product) ^ (key1 + PHILOX_W1);
    third2 = lower(second0_product) ^ (key1 + 2 * PHILOX_W1);
  }

  std::array<uint32_t, 4> block(uint32_t index, uint32_t half) const {
    return philox4x32({index, sample, stream, half}, key0, key1);
  }
};

}  // namespace fsfast
