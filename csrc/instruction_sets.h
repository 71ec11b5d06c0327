// The innermost loops, compiled once per instruction set. Bits are the same in all of them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "floats.h"
#include "noise.h"
#include "philox.h"
#include "platform.h"
#include "resize.h"
#include "tokens.h"

#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace fsfast {

// LANES: 64-bit lanes of a vector of words. FLOATS, DOUBLES: lanes of vectors of pixels and of sums. FUSED: there is a
// multiplication and addition with one rounding.
namespace baseline {
#define LANES 2
#define FLOATS 4
#define DOUBLES 2
#if defined(__SSE2__)
#define FUSED 0
#include "loops/common.inc"
#include "loops/sse2.inc"
#define FSFAST_BASELINE "sse2"
#elif defined(__aarch64__)
#define FUSED 1
#include "loops/common.inc"
#include "loops/neon.inc"
#define FSFAST_BASELINE "neon"
#else
#define FUSED 0
#include "loops/common.inc"
#include "loops/plain.inc"
#define FSFAST_BASELINE "plain"
#endif
#include "loops/every.inc"
#undef LANES
#undef FLOATS
#undef DOUBLES
#undef FUSED
}  // namespace baseline

#if FSFAST_X86_GCC
#pragma GCC push_options
#pragma GCC target("arch=x86-64-v3")
namespace avx2 {
#define LANES 4
#define FLOATS 8
#define DOUBLES 4
#define FUSED 1
#include "loops/common.inc"
#include "loops/bytes_x86.inc"
#include "loops/avx2.inc"
#include "loops/every.inc"
#undef LANES
#undef FLOATS
#undef DOUBLES
#undef FUSED
}  // namespace avx2
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4")
namespace avx512 {
#define LANES 8
#define FLOATS 16
#define DOUBLES 8
#define FUSED 1
#include "loops/common.inc"
#include "loops/bytes_x86.inc"
#include "loops/avx512.inc"
#include "loops/every.inc"
#undef LANES
#undef FLOATS
#undef DOUBLES
#undef FUSED
}  // namespace avx512
#pragma GCC pop_options
#endif

// What this processor runs, by its place in instruction_sets().
enum class InstructionSet : size_t {};

// The fastest last.
inline std::vector<std::string> instruction_sets() {
  std::vector<std::string> usable{FSFAST_BASELINE};
#if FSFAST_X86_GCC
  if (__builtin_cpu_supports("x86-64-v3")) usable.push_back("avx2");
  if (__builtin_cpu_supports("x86-64-v4")) usable.push_back("avx512");
#endif
  return usable;
}

// The function of an instruction set, e.g. FSFAST_FUNCTION(set, denoise_row).
#if FSFAST_X86_GCC
#define FSFAST_FUNCTION(set, ...)                                            \
  (static_cast<size_t>(set) == 0   ? &::fsfast::baseline::__VA_ARGS__        \
   : static_cast<size_t>(set) == 1 ? &::fsfast::avx2::__VA_ARGS__            \
                                   : &::fsfast::avx512::__VA_ARGS__)
#else
#define FSFAST_FUNCTION(set, ...) (&::fsfast::baseline::__VA_ARGS__)
#endif

}  // namespace fsfast
