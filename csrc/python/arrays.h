// NumPy arrays as the kernels take them, their shapes held to the op's ShapeRules.
#pragma once

#include <pybind11/numpy.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "common/shapes.h"

namespace kvision {

// C-contiguous; other arrays are converted.
template <typename T>
using Array = pybind11::array_t<T, pybind11::array::c_style | pybind11::array::forcecast>;

// Raises ValueError unless the complaint is empty.
inline void Require(const std::string& complaint) {
  if (!complaint.empty()) throw std::invalid_argument(complaint);
}

inline void MatchArray(const pybind11::array& array, const ShapeRule& rule, Sizes* sizes) {
  const std::vector<int64_t> shape(array.shape(), array.shape() + array.ndim());
  Require(sizes->Match(rule, {shape.data(), static_cast<int64_t>(shape.size())}));
}

// One array a rule.
template <size_t kNumber, typename... Arrays>
void MatchArrays(const ShapeRule (&rules)[kNumber], Sizes* sizes, const Arrays&... arrays) {
  static_assert(sizeof...(arrays) == kNumber, "one array an input");
  size_t input = 0;
  (MatchArray(arrays, rules[input++], sizes), ...);
}

template <typename T>
Array<T> MakeArray(const ShapeRule& rule, const Sizes& sizes) {
  return Array<T>(sizes.Shape(rule));
}

}  // namespace kvision
