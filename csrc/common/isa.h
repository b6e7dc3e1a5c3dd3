// Which of the instruction sets that kernels are compiled for this processor has.
#pragma once

#include <cstdlib>
#include <cstring>

namespace kvision {

enum class Isa { kBaseline, kAvx2, kAvx512 };

// The best set of this processor. The environment variable KVISION_ISA (baseline, avx2, avx512)
// lowers it, which is how one machine tests them all.
inline Isa CurrentIsa() {
  static const Isa isa = [] {
#ifdef __x86_64__
    const char* limit = std::getenv("KVISION_ISA");
    const auto allows = [limit](const char* name) {
      return limit == nullptr || std::strcmp(limit, name) == 0;
    };
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                      __builtin_cpu_supports("f16c");
    if (avx2 && __builtin_cpu_supports("avx512f") && allows("avx512")) return Isa::kAvx512;
    if (avx2 && (allows("avx2") || allows("avx512"))) return Isa::kAvx2;
#endif
    return Isa::kBaseline;
  }();
  return isa;
}

}  // namespace kvision
