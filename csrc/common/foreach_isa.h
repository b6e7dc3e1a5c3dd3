// Compiles the file named by KVISION_ISA_FILE once for every instruction set, each time in the
// namespace kvision::KVISION_ISA (baseline, avx2, avx512), where simd.inc has put the vectors of
// that set. The file includes nothing itself, and CurrentIsa() says which version to call. No
// include guard: a source may have several such files.

#include <cmath>
#include <type_traits>

#include "common/half.h"

#ifdef __x86_64__
#include <immintrin.h>
#endif

#define KVISION_ISA baseline
#define KVISION_VECTOR_BYTES 16
#include "common/simd.inc"
#include KVISION_ISA_FILE
#undef KVISION_ISA
#undef KVISION_VECTOR_BYTES

#ifdef __x86_64__

#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#define KVISION_ISA avx2
#define KVISION_VECTOR_BYTES 32
#include "common/simd.inc"
#include KVISION_ISA_FILE
#undef KVISION_ISA
#undef KVISION_VECTOR_BYTES
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,avx2,fma,f16c")
#define KVISION_ISA avx512
#define KVISION_VECTOR_BYTES 64
#include "common/simd.inc"
#include KVISION_ISA_FILE
#undef KVISION_ISA
#undef KVISION_VECTOR_BYTES
#pragma GCC pop_options

#endif
