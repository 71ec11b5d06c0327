// fsfast._processor: what the processor itself says about its instructions, as the operating system lets programs use
// them. Files such as /proc/cpuinfo tell of the host, which an emulator or a container may not be.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace {

#if defined(__x86_64__)

enum Register { EAX, EBX, ECX, EDX };

struct Leaf {
  uint32_t registers[4] = {};

  explicit Leaf(uint32_t leaf, uint32_t subleaf = 0) {
    uint32_t* r = registers;
    if (!__get_cpuid_count(leaf, subleaf, r, r + 1, r + 2, r + 3)) std::memset(registers, 0, sizeof registers);
  }
  bool bit(Register which, int position) const { return registers[which] >> position & 1; }
};

// Which registers the operating system saves: XCR0.
uint64_t saved_registers() {
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return static_cast<uint64_t>(high) << 32 | low;
}

// Named as Linux names them.
std::vector<std::string> extensions() {
  const Leaf one(1), seven(7);
  // Without its maximum, subleaf 1 repeats nothing and is zero.
  const Leaf more = seven.registers[EAX] >= 1 ? Leaf(7, 1) : Leaf(0xffffffffu);
  const uint64_t saved = one.bit(ECX, 27) ? saved_registers() : 0;
  const auto all_of = [&](uint64_t mask) { return (saved & mask) == mask; };
  const bool ymm = all_of(0x6), zmm = all_of(0xe6), tiles = all_of(0x60000);
  std::vector<std::string> found;
  const auto add = [&](const char* name, bool has) {
    if (has) found.emplace_back(name);
  };
  add("sse4_1", one.bit(ECX, 19));
  add("avx", ymm && one.bit(ECX, 28));
  add("avx2", ymm && seven.bit(EBX, 5));
  add("fma", ymm && one.bit(ECX, 12));
  add("f16c", ymm && one.bit(ECX, 29));
  add("avx_vnni", ymm && more.bit(EAX, 4));
  add("avx512f", zmm && seven.bit(EBX, 16));
  add("avx512bw", zmm && seven.bit(EBX, 30));
  add("avx512_vnni", zmm && seven.bit(ECX, 11));
  add("avx512_bf16", zmm && more.bit(EAX, 5));
  add("amx_tile", tiles && seven.bit(EDX, 24));
  add("amx_int8", tiles && seven.bit(EDX, 25));
  add("amx_bf16", tiles && seven.bit(EDX, 22));
  return found;
}

std::string model() {
  if (Leaf(0x80000000u).registers[EAX] < 0x80000004u) return "";
  char name[49] = {};
  for (uint32_t i = 0; i < 3; ++i) std::memcpy(name + 16 * i, Leaf(0x80000002u + i).registers, 16);
  return name;
}

#elif defined(__aarch64__) && defined(__linux__)

std::vector<std::string> extensions() {
  const unsigned long first = getauxval(AT_HWCAP), second = getauxval(AT_HWCAP2);
  std::vector<std::string> found;
  const auto add = [&](const char* name, unsigned long word, int position) {
    if (word >> position & 1) found.emplace_back(name);
  };
  add("asimd", first, 1);
  add("sve", first, 22);
  add("sve2", second, 1);
  add("sme", second, 23);
  add("bf16", second, 14);
  add("i8mm", second, 13);
  return found;
}

std::string model() { return ""; }

#else

std::vector<std::string> extensions() { return {}; }
std::string model() { return ""; }

#endif

}  // namespace

PYBIND11_MODULE(_processor, module) {
  module.doc() = "The processor's instructions; ask fsfast.machine.";
  module.def("extensions", &extensions);
  module.def("model", &model);
}
