// TensorFlow's 16-bit types seen as the kernels' own: same size, same bits.
#pragma once

#include "common/half.h"
#include "tensorflow/core/framework/tensor.h"

namespace kvision {

template <typename T>
struct KernelType {
  using Type = T;
};
template <>
struct KernelType<Eigen::half> {
  using Type = Half;
};
template <>
struct KernelType<Eigen::bfloat16> {
  using Type = BFloat16;
};
template <typename T>
using KernelTypeOf = typename KernelType<T>::Type;

template <typename T>
const KernelTypeOf<T>* DataOf(const tensorflow::Tensor& tensor) {
  return reinterpret_cast<const KernelTypeOf<T>*>(tensor.flat<T>().data());
}

template <typename T>
KernelTypeOf<T>* DataOf(tensorflow::Tensor* tensor) {
  return reinterpret_cast<KernelTypeOf<T>*>(tensor->flat<T>().data());
}

}  // namespace kvision
