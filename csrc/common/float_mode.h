// The floating-point mode in which CPU kernels run, whoever's thread it is: that of a new process.
// TensorFlow's and XLA's threads take subnormal numbers for zeros, which would decide some overlaps
// otherwise than on a GPU, in PyTorch or in NumPy.
#pragma once

#include <xmmintrin.h>

namespace kvision {

class DefaultFloatMode {
 public:
  DefaultFloatMode() : saved_(_mm_getcsr()) {
    if (saved_ & kSubnormalsAreZeros) _mm_setcsr(saved_ & ~kSubnormalsAreZeros);
  }
  ~DefaultFloatMode() {
    if (saved_ & kSubnormalsAreZeros) _mm_setcsr(saved_);
  }
  DefaultFloatMode(const DefaultFloatMode&) = delete;
  DefaultFloatMode& operator=(const DefaultFloatMode&) = delete;

 private:
  static constexpr unsigned kSubnormalsAreZeros = 0x8040;  // results, and what is read

  const unsigned saved_;
};

}  // namespace kvision
