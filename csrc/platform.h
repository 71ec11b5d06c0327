// What depends on the compiler: inlining, barriers, and which instruction sets it can compile for.
#pragma once

// GCC 12 compiles marked functions for newer processors, too. Elsewhere there is the baseline alone.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && __GNUC__ >= 12 && !defined(__clang__)
#define FSFAST_X86_GCC 1
#else
#define FSFAST_X86_GCC 0
#endif

// GCC and Clang, on any processor. A function is only as good as what is inlined into it.
#define FSFAST_INLINE inline __attribute__((always_inline))
#define FSFAST_COLD __attribute__((noinline, cold))
// Reading an array back is faster than extracting its elements from vector registers one by one.
#define FSFAST_KEEP_IN_MEMORY() __asm__ volatile("" ::: "memory")

// Otherwise the compiler would put words from anywhere together in a vector, one by one.
static FSFAST_INLINE uint32_t in_register(uint32_t word) {
  __asm__ volatile("" : "+r"(word));
  return word;
}

// Vector types appear only in functions that are always inlined or local: their calling convention does not matter.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"
#endif
