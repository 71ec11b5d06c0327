// float32 and the 16-bit types: one number to and fro, in integer arithmetic that the compiler can vectorise.
#pragma once

#include <cstdint>
#include <cstring>

#include "platform.h"

namespace fsfast {

enum class Dtype { FLOAT32, FLOAT16, BFLOAT16 };

// Half and Brain hold bit patterns: neither is a type of C++17.
struct Half {
  uint16_t bits;
};
struct Brain {
  uint16_t bits;
};

FSFAST_INLINE uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

FSFAST_INLINE float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

FSFAST_INLINE float load(float value) { return value; }

FSFAST_INLINE float load(Brain value) { return float_of(static_cast<uint32_t>(value.bits) << 16); }

FSFAST_INLINE float load(Half value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(value.bits & 0x7fffu) << 13;
  // The exponents differ by 112; multiplying by 2^112 also makes the subnormal numbers right.
  const float scaled = float_of(magnitude) * 0x1p112f;
  // Infinities and NaNs keep an exponent of all ones.
  const uint32_t special = magnitude | 0x7f800000u;
  return float_of(sign | (magnitude >= 0x0f800000u ? special : bits_of(scaled)));
}

template <typename T>
T store(float value);

template <>
FSFAST_INLINE float store<float>(float value) {
  return value;
}

template <>
FSFAST_INLINE Brain store<Brain>(float value) {
  const uint32_t bits = bits_of(value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  // Rounding could turn a NaN into an infinity.
  const uint32_t nan = (bits >> 16) | 0x40u;
  return {static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded)};
}

template <>
FSFAST_INLINE Half store<Half>(float value) {
  const uint32_t bits = bits_of(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  // Below 2^-14 the result is subnormal: adding 1/2 leaves the rounded mantissa in the lowest bits.
  const uint32_t small = bits_of(float_of(magnitude) + 0.5f) - 0x3f000000u;
  const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  // From 65520 on the nearest is infinity.
  const uint32_t large = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
  const uint32_t finite = magnitude < 0x38800000u ? small : normal;
  return {static_cast<uint16_t>(sign | (magnitude >= 0x477ff000u ? large : finite))};
}

}  // namespace fsfast
