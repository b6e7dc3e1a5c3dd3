// The connected components of masks on a GPU: disjoint sets of pixels, joined by whoever gets there
// first (Playne, Hawick, 2018). Pixels are numbered within their image, and a set is called by its
// first pixel, so that the result does not depend on the order.
#pragma once

#include <cub/device/device_scan.cuh>

#include "common/launch.cuh"

namespace kvision {
namespace {

constexpr int kPixelThreads = 256;  // whole warps

// A batch of images, and the pixel of it that a thread has.
struct PixelGrid {
  int64_t batch;
  int32_t height, width;

  __host__ __device__ int64_t Total() const { return batch * height * width; }
  __host__ __device__ int32_t Size() const { return height * width; }  // of an image
  unsigned Blocks() const { return BlocksFor(Total(), kPixelThreads); }
};

__device__ inline int32_t SetOf(const int32_t* sets, int32_t pixel) {
  const volatile int32_t* const current = sets;
  for (int32_t next; (next = current[pixel]) != pixel;) pixel = next;
  return pixel;
}

__device__ inline void JoinSets(int32_t* sets, int32_t one, int32_t other) {
  for (;;) {
    one = SetOf(sets, one);
    other = SetOf(sets, other);
    if (one == other) return;
    const int32_t first = min(one, other), last = max(one, other);
    const int32_t before = atomicMin(sets + last, first);
    if (before == last) return;
    one = before;  // somebody else has joined it since: it is yet to be joined with `first`
    other = first;
  }
}

// A pixel's set is at first the run that it belongs to, as far as its warp sees it. Pixels outside
// of the mask, that are those where it is `outside`, are sets of their own.
__global__ void RunsKernel(const bool* __restrict__ mask, bool outside, PixelGrid grid,
                           int32_t* __restrict__ sets) {
  const int64_t at = ThreadInGrid();
  const bool inside = at < grid.Total() && mask[at] != outside;
  const unsigned lane = threadIdx.x % kWarp;
  const unsigned before = __ballot_sync(kAllLanes, inside) << 1;
  const bool starts = inside && (!(before >> lane & 1) || at % grid.width == 0);
  const unsigned starts_so_far = __ballot_sync(kAllLanes, starts) & (kAllLanes >> (31 - lane));
  if (at >= grid.Total()) return;
  const auto pixel = static_cast<int32_t>(at % grid.Size());
  const int32_t steps = inside ? static_cast<int32_t>(lane) - (31 - __clz(starts_so_far)) : 0;
  sets[at] = pixel - steps;
}

// Joins what touches along edges that no other pixel sees as well.
__global__ void JoinKernel(const bool* __restrict__ mask, bool outside, PixelGrid grid,
                           bool corners, int32_t* sets) {
  const int64_t at = ThreadInGrid();
  if (at >= grid.Total() || mask[at] == outside) return;
  const auto pixel = static_cast<int32_t>(at % grid.Size());
  const int32_t x = pixel % grid.width, y = pixel / grid.width;
  const bool* const here = mask + at;
  int32_t* const its_sets = sets + (at - pixel);
  const bool left = x > 0 && here[-1] != outside;
  const bool right = x + 1 < grid.width && here[1] != outside;
  if (left && threadIdx.x % kWarp == 0) JoinSets(its_sets, pixel, pixel - 1);
  if (y == 0) return;
  const bool* const over = here - grid.width;
  const bool above = over[0] != outside;
  const bool above_left = x > 0 && over[-1] != outside;
  const bool above_right = x + 1 < grid.width && over[1] != outside;
  if (above && !(left && above_left)) JoinSets(its_sets, pixel, pixel - grid.width);
  if (!corners || above) return;
  if (above_left && !left) JoinSets(its_sets, pixel, pixel - grid.width - 1);
  if (above_right && !right) JoinSets(its_sets, pixel, pixel - grid.width + 1);
}

// Every pixel of the mask learns its set; `begins`, unless it is null, is 1 at the first of a set.
__global__ void SetsKernel(const bool* __restrict__ mask, bool outside, PixelGrid grid,
                           int32_t* sets, int32_t* __restrict__ begins) {
  const int64_t at = ThreadInGrid();
  if (at >= grid.Total()) return;
  const auto pixel = static_cast<int32_t>(at % grid.Size());
  const bool inside = mask[at] != outside;
  const int32_t set = inside ? SetOf(sets + (at - pixel), pixel) : pixel;
  sets[at] = set;
  if (begins != nullptr) begins[at] = inside && set == pixel;
}

inline void FindSets(const bool* mask, bool outside, PixelGrid grid, int64_t connectivity,
                     int32_t* sets, int32_t* begins, cudaStream_t stream) {
  const unsigned blocks = grid.Blocks();
  RunsKernel<<<blocks, kPixelThreads, 0, stream>>>(mask, outside, grid, sets);
  JoinKernel<<<blocks, kPixelThreads, 0, stream>>>(mask, outside, grid, connectivity == 8, sets);
  SetsKernel<<<blocks, kPixelThreads, 0, stream>>>(mask, outside, grid, sets, begins);
}

// Bytes of a number for every pixel, such that what lies behind it is aligned for anything.
inline int64_t RoomFor(PixelGrid grid) {
  constexpr int64_t kAlignment = 256;
  const int64_t bytes = grid.Total() * static_cast<int64_t>(sizeof(int32_t));
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

// Sums of all numbers of an image up to each.
inline size_t SumsWorkspace(PixelGrid grid) {
  size_t bytes = 0;
  int32_t* numbers = nullptr;
  cub::DeviceScan::InclusiveSum(nullptr, bytes, numbers, numbers, grid.Size());
  return bytes;
}

// An image at a time: CUB counts to 2^31 in fewer registers.
inline void SumUp(PixelGrid grid, int32_t* numbers, void* workspace, cudaStream_t stream) {
  size_t bytes = SumsWorkspace(grid);
  for (int64_t image = 0; image < grid.batch; ++image, numbers += grid.Size()) {
    cub::DeviceScan::InclusiveSum(workspace, bytes, numbers, numbers, grid.Size(), stream);
  }
}

// Labels of the pixels of the mask: the number of their set among those of the image. They may be
// written over the sets.
__global__ void LabelsKernel(const bool* __restrict__ mask, PixelGrid grid, const int32_t* sets,
                             const int32_t* __restrict__ sums, int32_t* labels) {
  const int64_t at = ThreadInGrid();
  if (at >= grid.Total()) return;
  labels[at] = mask[at] ? sums[at / grid.Size() * grid.Size() + sets[at]] : 0;
}

}  // namespace
}  // namespace kvision
