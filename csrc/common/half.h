// The two 16-bit floating-point types of kernels: storage only, arithmetic is done in float. Same
// bits as Eigen::half and Eigen::bfloat16.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/host_device.h"

namespace kvision {

template <typename To, typename From>
KVISION_HOST_DEVICE inline To BitCast(From from) {
  static_assert(sizeof(To) == sizeof(From), "BitCast: sizes differ");
  To to;
  memcpy(&to, &from, sizeof(to));
  return to;
}

struct Half {
  uint16_t bits;
};

struct BFloat16 {
  uint16_t bits;
};

KVISION_HOST_DEVICE inline float ToFloat(float value) { return value; }
KVISION_HOST_DEVICE inline double ToFloat(double value) { return value; }

// No step passes through a denormal float, so that the results hold under flush-to-zero, which
// TensorFlow's threads set.
KVISION_HOST_DEVICE inline float ToFloat(Half value) {
#ifdef __CUDA_ARCH__
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
  return result;
#else
  constexpr uint32_t kExponent = 0x7c00u << 13;
  uint32_t bits = (value.bits & 0x7fffu) << 13;
  const uint32_t exponent = bits & kExponent;
  bits += (127u - 15u) << 23;
  if (exponent == kExponent) {  // infinity, NaN
    bits += (128u - 16u) << 23;
  } else if (exponent == 0) {  // zero, subnormal
    bits = BitCast<uint32_t>(BitCast<float>(bits + (1u << 23)) - BitCast<float>(113u << 23));
  }
  return BitCast<float>(bits | static_cast<uint32_t>(value.bits & 0x8000u) << 16);
#endif
}

KVISION_HOST_DEVICE inline float ToFloat(BFloat16 value) {
  return BitCast<float>(static_cast<uint32_t>(value.bits) << 16);
}

// FromFloat<T> rounds to nearest, ties to even.
template <typename T>
KVISION_HOST_DEVICE inline T FromFloat(float value) {
  return static_cast<T>(value);
}

template <typename T>
KVISION_HOST_DEVICE inline T FromFloat(double value) {
  return static_cast<T>(value);
}

template <>
KVISION_HOST_DEVICE inline Half FromFloat<Half>(float value) {
#ifdef __CUDA_ARCH__
  Half result;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
  return result;
#else
  uint32_t bits = BitCast<uint32_t>(value);
  const uint32_t sign = bits & 0x80000000u;
  bits ^= sign;
  uint32_t half;
  if (bits >= (127u + 16u) << 23) {  // too large for a half, infinity, NaN
    half = bits > 0x7f800000u ? 0x7e00u : 0x7c00u;
  } else if (bits < 113u << 23) {  // a subnormal half: adding this constant puts its bits, rounded,
                                   // at the low end
    constexpr uint32_t kMagic = (127u - 15u + 23u - 10u + 1u) << 23;
    half = BitCast<uint32_t>(BitCast<float>(bits) + BitCast<float>(kMagic)) - kMagic;
  } else {
    const uint32_t odd = (bits >> 13) & 1u;
    half = (bits - ((127u - 15u) << 23) + 0xfffu + odd) >> 13;
  }
  return Half{static_cast<uint16_t>(half | sign >> 16)};
#endif
}

template <>
KVISION_HOST_DEVICE inline BFloat16 FromFloat<BFloat16>(float value) {
  const uint32_t bits = BitCast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u)
    return BFloat16{static_cast<uint16_t>(bits >> 16 | 0x40u)};
  return BFloat16{static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

// The type in which values of type T are summed.
template <typename T>
struct Accumulator {
  using Type = float;
};
template <>
struct Accumulator<double> {
  using Type = double;
};
template <typename T>
using AccumulatorOf = typename Accumulator<T>::Type;

}  // namespace kvision
