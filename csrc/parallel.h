// Threads over ranges, and the floating-point environment.
#pragma once

#include <algorithm>
#include <cfenv>
#include <cstdint>
#include <system_error>
#include <thread>
#include <vector>

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
