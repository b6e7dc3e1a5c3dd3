// Tiles of an image in shared memory: a sector of memory of each cell, with the cells around the
// tile that taps reach.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/launch.cuh"
#include "ops/depthwise_atrous_pyramid_pooling/depthwise_atrous_pyramid_pooling.h"

namespace kvision {

constexpr int kTileThreads = 256;
constexpr int kTileBytes = 88 * 1024;  // two blocks on an SM of an H100, one on smaller ones

// Channels that a block owns: threads next to one another own channels next to one another.
template <typename T>
constexpr int kGroup = 32 / sizeof(T);

// How far a branch reads on an axis of `size` cells.
__host__ __device__ inline int64_t DepthwiseAtrousReachOf(const DepthwiseAtrousBranch& branch,
                                                          int64_t size) {
  if (size == 0) return 0;
  const int64_t steps = (size - 1) / branch.dilation_rate, radius = branch.Radius();
  return (steps < radius ? steps : radius) * branch.dilation_rate;
}

// A rectangle of cells, and in which image.
struct DepthwiseAtrousTile {
  int64_t image, first_row, end_row, first_column, end_column;

  __device__ int Rows() const { return static_cast<int>(end_row - first_row); }
  __device__ int Columns() const { return static_cast<int>(end_column - first_column); }
  // With what a branch reaches around it.
  __device__ DepthwiseAtrousTile Around(const DepthwiseAtrousParameters& parameters, int64_t rows,
                                        int64_t columns) const {
    return {image, max(first_row - rows, int64_t{0}), min(end_row + rows, parameters.height),
            max(first_column - columns, int64_t{0}), min(end_column + columns, parameters.width)};
  }
};

// How images are cut into tiles of so many cells a side.
struct DepthwiseAtrousTiling {
  int64_t side, rows, columns;  // of tiles

  __device__ DepthwiseAtrousTile At(const DepthwiseAtrousParameters& parameters,
                                    int64_t index) const {
    const int64_t row = index / columns % rows * side, column = index % columns * side;
    return {index / columns / rows, row, min(row + side, parameters.height), column,
            min(column + side, parameters.width)};
  }
};

inline DepthwiseAtrousTiling TilingOf(const DepthwiseAtrousParameters& parameters, int64_t side) {
  return {side, BlocksFor(parameters.height, side), BlocksFor(parameters.width, side)};
}

// Bytes of a tile with what a branch reaches around it: those of the branch that wants the most.
template <typename T>
int64_t TileBytes(const DepthwiseAtrousParameters& parameters, int64_t side) {
  int64_t bytes = 0;
  for (int branch = 0; branch < parameters.num_branches; ++branch) {
    const DepthwiseAtrousBranch& b = parameters.branches[branch];
    const int64_t rows =
        std::min(side + 2 * DepthwiseAtrousReachOf(b, parameters.height), parameters.height);
    const int64_t columns =
        std::min(side + 2 * DepthwiseAtrousReachOf(b, parameters.width), parameters.width);
    bytes = std::max(bytes, rows * columns * kGroup<T> * static_cast<int64_t>(sizeof(T)));
  }
  return bytes;
}

// The cells of a tensor (images, height, width, pixel), `channel` of them, from shared memory where
// they were put there. Behind a ReLU those are zero whose `passed` is not greater than zero.
template <typename T, bool kShared>
struct DepthwiseAtrousCells {
  const T* tensor;
  const T* passed;
  int64_t pixel;
  int64_t height, width;
  T* shared;
  DepthwiseAtrousTile tile;

  __device__ T InMemory(int64_t row, int64_t column, int64_t channel) const {
    const int64_t at = ((tile.image * height + row) * width + column) * pixel + channel;
    if (passed != nullptr && !(ToFloat(passed[at]) > 0)) return FromFloat<T>(AccumulatorOf<T>(0));
    return tensor[at];
  }

  // By all threads of the block. `has_channel` says whether this thread's channel exists.
  __device__ void Fill(int64_t channel, bool has_channel) const {
    if constexpr (kShared) {
      const int columns = tile.Columns(), cells = tile.Rows() * columns;
      constexpr int kLanes = kTileThreads / kGroup<T>;
      __syncthreads();  // what was there is no longer read
      if (has_channel) {
        for (int cell = threadIdx.x / kGroup<T>; cell < cells; cell += kLanes) {
          shared[cell * kGroup<T> + threadIdx.x % kGroup<T>] = InMemory(
              tile.first_row + cell / columns, tile.first_column + cell % columns, channel);
        }
      }
      __syncthreads();
    }
  }

  // A cell of the tile.
  __device__ AccumulatorOf<T> Read(int64_t row, int64_t column, int64_t channel) const {
    if constexpr (kShared) {
      const int cell = static_cast<int>(row - tile.first_row) * tile.Columns() +
                       static_cast<int>(column - tile.first_column);
      return ToFloat(shared[cell * kGroup<T> + threadIdx.x % kGroup<T>]);
    } else {
      return ToFloat(InMemory(row, column, channel));
    }
  }
};

}  // namespace kvision
