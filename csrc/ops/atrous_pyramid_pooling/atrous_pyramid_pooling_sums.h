// What the products of atrous pyramid pooling sum, in the words of a matrix product, and the memory
// in which they do.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "common/half.h"
#include "common/span.h"
#include "ops/atrous_pyramid_pooling/atrous_pyramid_pooling.h"

namespace kvision {

// A part of a sum that is added up before it joins the rest: pixels' channels going forward, pixels
// of the kernels' gradient.
inline constexpr int64_t kAtrousDepth = 256;
// The most rows and columns of sums in one thread's hands: pixels, so many that what a tap's
// weights cost to fetch does not show, or channels of the kernels' gradient, so many that their
// sums stay in the second-level cache.
inline constexpr int64_t kAtrousPixels = 1120, kAtrousChannels = 560, kAtrousColumns = 256;

// [begin, end).
struct AtrousRange {
  int64_t begin, end;

  int64_t size() const { return end - begin; }
};

// A tap as every pixel sees it that it reaches: `depth` channels of the pixel (row offset, column
// offset) away, from `first_channel` on, times a matrix.
template <typename T>
struct AtrousTap {
  AtrousReach rows, columns;
  int64_t first_channel, depth;
  const T*
      weights;  // of channel d and column c of the sums at d * depth_stride + c * column_stride
  int64_t depth_stride, column_stride;
};

// target(pixel, first_column + c) = biases[c] + the sum over the taps, for c below `columns`.
template <typename T>
struct AtrousSum {
  using Accumulator = AccumulatorOf<T>;

  AtrousMap map;
  const T* source;
  int64_t source_channels;
  std::vector<AtrousTap<T>> taps;
  const T* biases;  // or null
  bool relu;
  T* target;
  int64_t target_channels, first_column, columns;
};

// gradient(c, f) = the sum over the pixels that the tap reaches of x(pixel + offset, c) *
// output_gradient(pixel, first_filter + f), for f below `filters`.
template <typename T>
struct AtrousKernelSum {
  using Accumulator = AccumulatorOf<T>;

  AtrousMap map;
  const T *x, *output_gradient;
  AtrousReach rows, columns;
  int64_t first_filter, filters;
  T* gradient;  // (in_channels, filters)
};

// A pixel and the one that a tap finds for it.
struct AtrousPixel {
  int64_t target, source;
};

// Appends what a tap reaches from the pixels [begin, end).
inline void ListPixels(const AtrousMap& map, const AtrousReach& rows, const AtrousReach& columns,
                       AtrousRange pixels, std::vector<AtrousPixel>* list) {
  const int64_t step = rows.offset * map.width + columns.offset;
  for (int64_t row = pixels.begin / map.width; row * map.width < pixels.end; ++row) {
    const int64_t y = row % map.height;
    if (y < rows.begin || y >= rows.end) continue;
    const int64_t start = row * map.width;
    const int64_t begin = std::max(start + columns.begin, pixels.begin);
    const int64_t end = std::min(start + columns.end, pixels.end);
    for (int64_t pixel = begin; pixel < end; ++pixel) list->push_back({pixel, pixel + step});
  }
}

// Numbers that lie on the lines of a cache.
template <typename F>
class AtrousNumbers {
 public:
  F* Reserve(int64_t number) {
    const int64_t lines = (number + kPerLine - 1) / kPerLine;
    if (lines > size_) {
      lines_.reset(new Line[lines]);  // as they are: zeros would be written for nothing
      size_ = lines;
    }
    return reinterpret_cast<F*>(lines_.get());
  }

 private:
  static constexpr int64_t kPerLine = 64 / sizeof(F);
  struct alignas(64) Line {
    F numbers[kPerLine];
  };
  std::unique_ptr<Line[]> lines_;
  int64_t size_ = 0;
};

// The memory of a thread, kept from one part of the sums to the next.
template <typename F>
struct AtrousWorkspace {
  AtrousNumbers<F> tiles, panels, sums;
  std::vector<AtrousPixel> pixels;
};

}  // namespace kvision
