// Kernels whose blocks own a tile of a map, and need those boxes alone that reach it.
#pragma once

#include <cstdint>

#include "common/launch.cuh"

namespace kvision {

// The rows and columns, of tiles of a map, that a box reaches. None if it ends before it begins.
struct TileReach {
  int32_t first_row, end_row, first_column, end_column;

  __device__ bool Holds(int64_t row, int64_t column) const {
    return row >= first_row && row < end_row && column >= first_column && column < end_column;
  }
};

// Calls `visit(first, list, number)` for the boxes [0, num_boxes) for which `near(box)` holds, in
// their order, some at a time: they are first + list[i]. All threads of the block, which has
// kNumThreads, take part; `visit` may wait for them.
template <int kNumThreads, typename Near, typename Visit>
__device__ inline void VisitNearBoxes(int64_t num_boxes, const Near& near, const Visit& visit) {
  constexpr int kWarps = kNumThreads / kWarp;
  constexpr int kBoxes = kWarp / kWarps;  // of a thread: a warp has a lane for each of their counts
  static_assert(kWarps * kBoxes == kWarp);
  __shared__ int32_t list[kBoxes * kNumThreads];  // from `first` on
  __shared__ int counts[kWarp];
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  for (int64_t first = 0; first < num_boxes; first += kBoxes * kNumThreads) {
    unsigned votes[kBoxes];
#pragma unroll
    for (int k = 0; k < kBoxes; ++k) {
      const int64_t box = first + k * kNumThreads + threadIdx.x;
      votes[k] = __ballot_sync(kAllLanes, box < num_boxes && near(box));
      if (lane == 0) counts[k * kWarps + warp] = __popc(votes[k]);
    }
    __syncthreads();
    int end = counts[lane];
    for (int distance = 1; distance < kWarp; distance *= 2) {
      const int before = __shfl_up_sync(kAllLanes, end, distance);
      if (lane >= distance) end += before;
    }
    const int listed = __shfl_sync(kAllLanes, end, kWarp - 1);
    if (listed == 0) {
      __syncthreads();
      continue;
    }
#pragma unroll
    for (int k = 0; k < kBoxes; ++k) {
      const int end_of_warp = __shfl_sync(kAllLanes, end, k * kWarps + warp);
      if (votes[k] >> lane & 1) {
        list[end_of_warp - __popc(votes[k] >> lane)] = k * kNumThreads + threadIdx.x;
      }
    }
    __syncthreads();
    visit(first, list, listed);
    __syncthreads();
  }
}

}  // namespace kvision
