// Kernels whose blocks own a tile of a map, and need those boxes alone that reach it.
#pragma once

#include <cstdint>

#include "common/launch.cuh"

namespace kvision {

// Boxes that are listed before they are visited; at least as many as the block has threads.
constexpr int kMostListed = 512;

// The rows and columns, of tiles of a map, that a box reaches. None if it ends before it begins.
struct TileReach {
  int32_t first_row, end_row, first_column, end_column;

  __device__ bool Holds(int64_t row, int64_t column) const {
    return row >= first_row && row < end_row && column >= first_column && column < end_column;
  }
};

// Calls `visit(list, number)` for the boxes [0, num_boxes) for which `near(box)` holds, in their
// order, some at a time. All threads of the block, which has kNumThreads, take part; `visit` may
// wait for them.
template <int kNumThreads, typename Near, typename Visit>
__device__ inline void VisitNearBoxes(int64_t num_boxes, const Near& near, const Visit& visit) {
  static_assert(kNumThreads <= kMostListed && kNumThreads % kWarp == 0);
  constexpr int kWarps = kNumThreads / kWarp;
  __shared__ int64_t list[kMostListed];
  __shared__ int number_of_warp[kWarps];
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  int listed = 0;
  for (int64_t first = 0; first < num_boxes; first += kNumThreads) {
    const int64_t box = first + threadIdx.x;
    const bool is_near = box < num_boxes && near(box);
    const unsigned votes = __ballot_sync(kAllLanes, is_near);
    if (lane == 0) number_of_warp[warp] = __popc(votes);
    __syncthreads();
    int before = listed;
#pragma unroll
    for (int other = 0; other < kWarps; ++other) {
      const int number = number_of_warp[other];
      before += other < warp ? number : 0;
      listed += number;
    }
    if (is_near) list[before + __popc(votes & ((1u << lane) - 1))] = box;
    __syncthreads();
    if (listed > kMostListed - kNumThreads) {
      visit(list, listed);
      listed = 0;
      __syncthreads();
    }
  }
  if (listed > 0) visit(list, listed);
}

}  // namespace kvision
