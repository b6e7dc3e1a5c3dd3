// Max pooling that tells where each maximum was, so that it can be undone (max_unpool).
//
//   x        (batch, height, width, channels), fewer than 2^31 cells a map
//   pooled   (batch, output_height, output_width, channels): the maximum in each window
//   argmax   of the shape of `pooled`: the cell y * width + x of the map that gave each value
//
// Along an axis, window i covers the cells from i * stride - offset up to, not including, that plus
// its length that lie on the map, one of them at least. So the caller chooses the number of windows
// and where they begin: what Keras, Caffe and PyTorch call padding differs in these alone.
//   - A value is the first of the largest in row-major order. A NaN is larger than every number.
//   - Windows may overlap, or leave cells between them out.
//   - Any size may be zero, and then there is nothing to do.
//
// The gradient is max_unpool of the upstream gradient. Memory beside the outputs: none.
#pragma once

#include <cstdint>
#include <string>

#include "common/half.h"
#include "common/host_device.h"
#include "common/parallel.h"
#include "common/shapes.h"

namespace kvision {

inline constexpr int64_t kMaxPoolMaxCells = (int64_t{1} << 31) - 1;

// The cells [begin, end) of an axis.
struct MaxPoolCells {
  int64_t begin, end;
};

// The windows of one axis, on a map of `size` cells.
struct MaxPoolAxis {
  int64_t size, windows, length, stride, offset;

  KVISION_HOST_DEVICE MaxPoolCells CellsOf(int64_t window) const {
    const int64_t begin = window * stride - offset, end = begin + length;
    return {begin > 0 ? begin : 0, end < size ? end : size};
  }
};

struct MaxPoolParameters {
  int64_t batch, channels;
  MaxPoolAxis rows, columns;

  KVISION_HOST_DEVICE int64_t Cells() const { return rows.size * columns.size; }
  KVISION_HOST_DEVICE int64_t Windows() const { return rows.windows * columns.windows; }
};

// What is wrong with the windows of one axis, or nothing. Sizes may be unknown.
inline std::string CheckMaxPoolAxis(const MaxPoolAxis& axis, const char* size_name) {
  const auto& [size, windows, length, stride, offset] = axis;
  const auto complain = [](const auto&... parts) {
    return Complaint("max_pool_with_argmax", parts...);
  };
  if (length < 1 || length > kMaxPoolMaxCells || stride < 1 || stride > kMaxPoolMaxCells) {
    return complain("`pool_size` and `strides` must be in [1, 2^31). Received: ", length, " and ",
                    stride, ".");
  }
  if (offset < 0 || offset >= length) {
    return complain("`offset` must be in [0, ", length, "), so that no window lies off the map. ",
                    "Received: ", offset, ".");
  }
  if (size == kUnknownSize || windows < 1) return {};
  if (size < 1 || windows - 1 > (size - 1 + offset) / stride) {
    return complain("`output_shape` must leave no window off the map. Received: ", windows,
                    " windows on a ", size_name, " of ", size, ".");
  }
  return {};
}

// What is wrong with the numbers, or nothing. Sizes may be unknown.
inline std::string CheckMaxPool(const MaxPoolParameters& parameters) {
  const int64_t height = parameters.rows.size, width = parameters.columns.size;
  if (height > 0 && width > kMaxPoolMaxCells / height) {
    return Complaint("max_pool_with_argmax",
                     "a map must have fewer than 2^31 cells. Received: ", height, " by ", width,
                     ".");
  }
  const std::string wrong = CheckMaxPoolAxis(parameters.rows, "height");
  return wrong.empty() ? CheckMaxPoolAxis(parameters.columns, "width") : wrong;
}

template <typename T>
void MaxPoolWithArgmax(const MaxPoolParameters& parameters, const T* x, T* pooled, int32_t* argmax,
                       ParallelFor parallel_for);

// The same on the device of the stream (a cudaStream_t). Returns null, or what CUDA says is wrong.
template <typename T>
const char* MaxPoolWithArgmaxCuda(const MaxPoolParameters& parameters, const T* x, T* pooled,
                                  int32_t* argmax, void* stream);

}  // namespace kvision
