// Threads over ranges, the floating-point environment, and function clones for newer processors.
#pragma once

#include <algorithm>
#include <cfenv>
#include <cstdint>
#include <system_error>
#include <thread>
#include <vector>

// GCC 12 compiles a marked function once per instruction set and picks at load time. Elsewhere: plain loops.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && __GNUC__ >= 12 && !defined(__clang__)
#define FSFAST_X86_GCC 1
#define FSFAST_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FSFAST_X86_GCC 0
#define FSFAST_CLONES
#endif

// GCC and Clang, on any processor. A clone is only as good as what is inlined into it.
#define FSFAST_INLINE inline __attribute__((always_inline))
#define FSFAST_COLD __attribute__((noinline, cold))
// One predicted branch is cheaper than the conditional moves that the compiler would make of it.
#define FSFAST_KEEP_BRANCH() __asm__ volatile("")
// Reading an array back is faster than extracting its elements from vector registers one by one.
#define FSFAST_KEEP_IN_MEMORY() __asm__ volatile("" ::: "memory")

namespace fsfast {

// Other libraries switch denormals off or change the rounding mode; bits must not depend on that.
class DefaultFloatEnvironment {
 public:
  DefaultFloatEnvironment() {
    std::fegetenv(&saved_);
    std::fesetenv(FE_DFL_ENV);
  }
  ~DefaultFloatEnvironment() { std::fesetenv(&saved_); }
  DefaultFloatEnvironment(const DefaultFloatEnvironment&) = delete;
  DefaultFloatEnvironment& operator=(const DefaultFloatEnvironment&) = delete;

 private:
  std::fenv_t saved_;
};

// Calls body(begin, end, worker) on `threads` contiguous pieces of [0, count); inline for one thread.
// The body must not throw.
template <typename Body>
void parallel_for(int64_t count, int threads, const Body& body) {
  const int64_t workers = std::min<int64_t>(threads, count);
  const auto run = [&](int64_t worker) {
    const DefaultFloatEnvironment environment;
    body(count * worker / workers, count * (worker + 1) / workers, static_cast<int>(worker));
  };
  if (workers <= 0) return;
  std::vector<std::thread> others;
  others.reserve(workers - 1);
  for (int64_t worker = 1; worker < workers; ++worker) {
    try {
      others.emplace_back(run, worker);
    } catch (const std::system_error&) {
      // No more threads to be had: the same work on this one.
      run(worker);
    }
  }
  run(0);
  for (std::thread& other : others) other.join();
}

}  // namespace fsfast
