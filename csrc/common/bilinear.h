// Bilinear interpolation along one axis: the two cells that a position reads.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace kvision {

// No contraction to fused multiply-adds on the device: the order and rounding of these steps decide
// counts and borders. Host code is built without it.
#ifdef __CUDA_ARCH__
KVISION_HOST_DEVICE inline float Multiply(float a, float b) { return __fmul_rn(a, b); }
KVISION_HOST_DEVICE inline double Multiply(double a, double b) { return __dmul_rn(a, b); }
#else
template <typename F>
KVISION_HOST_DEVICE inline F Multiply(F a, F b) {
  return a * b;
}
#endif

template <typename F>
struct BilinearTaps {
  int64_t low, high;
  F low_weight, high_weight;
};

// Whether a position reads anything on an axis of `size` cells: the border cells reach one cell
// outwards. NaN does not.
template <typename F>
KVISION_HOST_DEVICE inline bool ReadsMap(F position, int64_t size) {
  return position >= F(-1) && position <= static_cast<F>(size);
}

// The cells of a position for which ReadsMap holds, on an axis of at least one cell.
template <typename F>
KVISION_HOST_DEVICE inline BilinearTaps<F> TapsAt(F position, int64_t size) {
  if (position <= F(0)) return {0, 0, F(1), F(0)};
  const int64_t low = static_cast<int64_t>(position);
  if (low >= size - 1) return {size - 1, size - 1, F(1), F(0)};
  const F fraction = position - static_cast<F>(low);
  return {low, low + 1, F(1) - fraction, fraction};
}

}  // namespace kvision
