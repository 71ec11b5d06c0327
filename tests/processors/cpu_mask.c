// Hides a processor's wider instruction sets from one process and its children, so that what runs on most processors
// can be tested at full speed on one that has more:
//   FSFAST_CPU_MASK=avx2 LD_PRELOAD=build/cpu_mask.so python …
// FSFAST_CPU_MASK: sse2, avx2, or avx2-vnni (later desktops and laptops: AVX2 with AVX_VNNI, without AVX-512 and BF16).
// Linux lets a process fault on the instruction CPUID (cpuid_fault in /proc/cpuinfo); the handler answers in its place.
// Every library asks CPUID: ONNX Runtime, OpenVINO, torch and fsfast alike. Only the C library has chosen before.
#define _GNU_SOURCE
#include <asm/prctl.h>
#include <dlfcn.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

enum { EAX, EBX, ECX, EDX };

typedef int SigactionFunction(int, const struct sigaction*, struct sigaction*);

static int avx2, vnni;
static SigactionFunction* real_sigaction;
// What the process wanted to happen on other faults.
static struct sigaction wanted;

static int allow_cpuid(unsigned long allowed) { return (int)syscall(SYS_arch_prctl, ARCH_SET_CPUID, allowed); }

static void clear(uint32_t* reg, const char* bits) {
  for (char* end; *bits; bits = end + (*end == ' ')) *reg &= ~(1u << strtol(bits, &end, 10));
}

static void hide(uint32_t leaf, uint32_t subleaf, uint32_t r[4]) {
  if (leaf == 7 && subleaf == 0) {
    clear(&r[EBX], "16 17 21 26 27 28 30 31");  // AVX-512: F DQ IFMA PF ER CD BW VL
    clear(&r[ECX], "1 6 11 12 14");             // VBMI VBMI2 VNNI BITALG VPOPCNTDQ
    clear(&r[EDX], "2 3 8 22 23 24 25");        // 4VNNIW 4FMAPS VP2INTERSECT AMX-BF16 FP16 AMX-TILE AMX-INT8
    if (!avx2) {
      clear(&r[EBX], "5");
      clear(&r[ECX], "9 10");  // VAES VPCLMULQDQ
    }
  }
  if (leaf == 7 && subleaf == 1) {
    if (!vnni) clear(&r[EAX], "4");
    clear(&r[EAX], "5 21 23");        // AVX512_BF16 AMX-FP16 AVX-IFMA
    clear(&r[EDX], "4 5 8 10 19");    // AVX-VNNI-INT8 NE-CONVERT AMX-COMPLEX VNNI-INT16 AVX10
  }
  if (leaf == 0x1d || leaf == 0x1e || leaf == 0x24) memset(r, 0, 16);  // AMX tiles, AVX10
  if (leaf == 1 && !avx2) clear(&r[ECX], "12 28 29");                  // FMA AVX F16C
}

static void on_fault(int signal_number, siginfo_t* info, void* context) {
  (void)signal_number;
  greg_t* g = ((ucontext_t*)context)->uc_mcontext.gregs;
  const uint8_t* instruction = (const uint8_t*)g[REG_RIP];
  if (info->si_code != SI_KERNEL || instruction[0] != 0x0f || instruction[1] != 0xa2) {
    // Another fault: the instruction runs again, or the signal is sent again, and the process gets what it wanted.
    real_sigaction(SIGSEGV, &wanted, NULL);
    if (info->si_code <= 0) raise(SIGSEGV);
    return;
  }
  const uint32_t leaf = (uint32_t)g[REG_RAX], subleaf = (uint32_t)g[REG_RCX];
  uint32_t r[4];
  allow_cpuid(1);
  __asm__ volatile("cpuid" : "=a"(r[EAX]), "=b"(r[EBX]), "=c"(r[ECX]), "=d"(r[EDX]) : "a"(leaf), "c"(subleaf));
  allow_cpuid(0);
  hide(leaf, subleaf, r);
  g[REG_RAX] = r[EAX], g[REG_RBX] = r[EBX], g[REG_RCX] = r[ECX], g[REG_RDX] = r[EDX];
  g[REG_RIP] += 2;
}

static void find_real(void) {
  if (real_sigaction == NULL) real_sigaction = (SigactionFunction*)dlsym(RTLD_NEXT, "sigaction");
}

// Python's faulthandler and others install handlers of their own.
int sigaction(int number, const struct sigaction* new, struct sigaction* old) {
  find_real();
  if (number != SIGSEGV) return real_sigaction(number, new, old);
  if (old != NULL) *old = wanted;
  if (new != NULL) wanted = *new;
  return 0;
}

sighandler_t signal(int number, sighandler_t handler) {
  struct sigaction new = {.sa_handler = handler, .sa_flags = SA_RESTART}, old;
  sigemptyset(&new.sa_mask);
  return sigaction(number, &new, &old) == 0 ? old.sa_handler : SIG_ERR;
}

__attribute__((constructor)) static void start(void) {
  const char* mask = getenv("FSFAST_CPU_MASK");
  if (mask == NULL) return;
  avx2 = strncmp(mask, "avx2", 4) == 0;
  vnni = strcmp(mask, "avx2-vnni") == 0;
  if (!avx2 && strcmp(mask, "sse2") != 0) {
    fprintf(stderr, "FSFAST_CPU_MASK: wanted sse2, avx2 or avx2-vnni, got %s\n", mask);
    _exit(2);
  }
  find_real();
  struct sigaction handler = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER};
  sigemptyset(&handler.sa_mask);
  real_sigaction(SIGSEGV, &handler, &wanted);
  if (allow_cpuid(0) != 0) {
    fprintf(stderr, "FSFAST_CPU_MASK: this machine cannot fault on CPUID (no cpuid_fault in /proc/cpuinfo)\n");
    _exit(3);
  }
}
