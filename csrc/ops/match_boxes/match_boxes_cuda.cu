// A thread a candidate, the boxes of its image passing through shared memory. The greatest IoU of a
// box is a maximum of bits, which has one result in any order; a second kernel then compares with
// it, computing the IoUs again instead of keeping them.
#include <algorithm>
#include <cstdint>

#include "common/launch.cuh"
#include "ops/match_boxes/match_boxes.h"

namespace kvision {
namespace {

constexpr int kThreads = 256;
constexpr int kTile = 128;           // boxes in shared memory
constexpr int64_t kMostInY = 65535;  // blocks of a grid

struct MatchedBox {
  float x1, y1, x2, y2, area;
};

// Products that are never fused with a sum, as on the CPU.
__device__ inline float Area(float x1, float y1, float x2, float y2) {
  return __fmul_rn(x2 > x1 ? x2 - x1 : 0.0f, y2 > y1 ? y2 - y1 : 0.0f);
}

// An empty box in place of one with a corner that is NaN, which is to meet nothing.
__device__ inline MatchedBox ReadBox(const float* boxes, int64_t index) {
  const float x1 = boxes[4 * index], y1 = boxes[4 * index + 1];
  const float x2 = boxes[4 * index + 2], y2 = boxes[4 * index + 3];
  if (!(x1 == x1 && y1 == y1 && x2 == x2 && y2 == y2)) return {};
  return {x1, y1, x2, y2, Area(x1, y1, x2, y2)};
}

__device__ inline float Intersection(const MatchedBox& a, const MatchedBox& b) {
  const float width = fminf(a.x2, b.x2) - fmaxf(a.x1, b.x1);
  const float height = fminf(a.y2, b.y2) - fmaxf(a.y1, b.y1);
  return width > 0.0f && height > 0.0f ? __fmul_rn(width, height) : 0.0f;
}

__device__ inline float IoU(const MatchedBox& candidate, const MatchedBox& box) {
  const float intersection = Intersection(candidate, box);
  if (!(intersection > 0.0f)) return 0.0f;
  const float iou = intersection / (box.area + candidate.area - intersection);
  return iou > 0.0f ? iou : 0.0f;
}

struct Tensors {
  const float* boxes;
  const bool* valid;
  const bool* crowd;
  const float* candidates;
  int32_t* matches;
  int32_t* status;
  unsigned* highest;  // (batch, num_boxes), the bits of the greatest IoU of each box
};

// The candidates of a block of threads are of one image: gridDim.x blocks an image, gridDim.y
// images at a time.
__device__ inline MatchedBox OwnCandidate(const Tensors& tensors, const MatchBoxesShape& shape,
                                          int64_t image, int64_t candidate) {
  if (candidate >= shape.num_candidates) return {};
  const int64_t first = shape.shared_candidates ? 0 : image * shape.num_candidates;
  return ReadBox(tensors.candidates, first + candidate);
}

__global__ void __launch_bounds__(kThreads)
    MatchKernel(Tensors tensors, MatchBoxesShape shape, MatchBoxesAttributes attributes) {
  __shared__ MatchedBox tile[kTile];
  __shared__ bool tile_valid[kTile], tile_crowd[kTile];
  const int64_t candidate = ThreadInGrid();
  for (int64_t image = blockIdx.y; image < shape.batch; image += gridDim.y) {
    const MatchedBox own = OwnCandidate(tensors, shape, image, candidate);
    float best = -1.0f;
    int32_t match = 0;
    bool in_crowd = false;
    for (int64_t first = 0; first < shape.num_boxes; first += kTile) {
      const int64_t size = min(static_cast<int64_t>(kTile), shape.num_boxes - first);
      __syncthreads();
      if (threadIdx.x < size) {
        const int64_t box = image * shape.num_boxes + first + threadIdx.x;
        tile[threadIdx.x] = ReadBox(tensors.boxes, box);
        tile_valid[threadIdx.x] = tensors.valid[box];
        tile_crowd[threadIdx.x] = tensors.crowd[box];
      }
      __syncthreads();
      for (int i = 0; i < size; ++i) {
        if (tile_crowd[i]) {
          in_crowd |= Intersection(own, tile[i]) > __fmul_rn(attributes.crowd_overlap, own.area);
        }
        if (!tile_valid[i]) continue;
        const float iou = IoU(own, tile[i]);
        if (iou > best) {
          best = iou;
          match = static_cast<int32_t>(first + i);
        }
        if (attributes.allow_low_quality && __any_sync(kAllLanes, iou > 0.0f)) {
          // IoUs are not negative, so that their bits are ordered as they are.
          const unsigned most = __reduce_max_sync(kAllLanes, __float_as_uint(iou));
          if (threadIdx.x % kWarp == 0) {
            atomicMax(tensors.highest + image * shape.num_boxes + first + i, most);
          }
        }
      }
    }
    if (candidate >= shape.num_candidates) continue;
    int32_t status = best >= attributes.positive_threshold  ? kPositive
                     : best < attributes.negative_threshold ? kNegative
                                                            : kIgnored;
    if (status == kNegative && in_crowd) status = kIgnored;
    tensors.matches[image * shape.num_candidates + candidate] = match;
    tensors.status[image * shape.num_candidates + candidate] = status;
  }
}

__global__ void __launch_bounds__(kThreads)
    MarkHighestKernel(Tensors tensors, MatchBoxesShape shape) {
  __shared__ MatchedBox tile[kTile];
  __shared__ float tile_highest[kTile];
  const int64_t candidate = ThreadInGrid();
  for (int64_t image = blockIdx.y; image < shape.batch; image += gridDim.y) {
    const MatchedBox own = OwnCandidate(tensors, shape, image, candidate);
    bool positive = false;
    for (int64_t first = 0; first < shape.num_boxes; first += kTile) {
      const int64_t size = min(static_cast<int64_t>(kTile), shape.num_boxes - first);
      __syncthreads();
      if (threadIdx.x < size) {
        const int64_t box = image * shape.num_boxes + first + threadIdx.x;
        tile[threadIdx.x] = ReadBox(tensors.boxes, box);
        tile_highest[threadIdx.x] =
            tensors.valid[box] ? __uint_as_float(tensors.highest[box]) : 0.0f;
      }
      __syncthreads();
      for (int i = 0; i < size; ++i) {
        positive |= tile_highest[i] > 0.0f && IoU(own, tile[i]) == tile_highest[i];
      }
    }
    if (positive && candidate < shape.num_candidates) {
      tensors.status[image * shape.num_candidates + candidate] = kPositive;
    }
  }
}

}  // namespace

size_t MatchBoxesCudaWorkspace(const MatchBoxesShape& shape) {
  return shape.batch * shape.num_boxes * sizeof(unsigned);
}

const char* MatchBoxesCuda(const float* boxes, const bool* valid, const bool* crowd,
                           const float* candidates, const MatchBoxesShape& shape,
                           const MatchBoxesAttributes& attributes, void* workspace,
                           int32_t* matches, int32_t* status, void* stream) {
  if (shape.batch == 0 || shape.num_candidates == 0) return nullptr;
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  const Tensors tensors = {
      boxes, valid, crowd, candidates, matches, status, static_cast<unsigned*>(workspace)};
  const dim3 grid(BlocksFor(shape.num_candidates, kThreads),
                  static_cast<unsigned>(std::min<int64_t>(shape.batch, kMostInY)));
  cudaMemsetAsync(workspace, 0, MatchBoxesCudaWorkspace(shape), cuda_stream);
  MatchKernel<<<grid, kThreads, 0, cuda_stream>>>(tensors, shape, attributes);
  if (attributes.allow_low_quality && shape.num_boxes > 0) {
    MarkHighestKernel<<<grid, kThreads, 0, cuda_stream>>>(tensors, shape);
  }
  return LastCudaError();
}

}  // namespace kvision
