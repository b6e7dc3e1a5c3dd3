// One thread block: each step needs the one before it. A step decays the scores by the box just
// selected and finds the greatest, in one pass over the candidates; a thread owns every 1024th.
#include "common/launch.cuh"
#include "ops/soft_nms/soft_nms.h"

namespace kvision {
namespace {

constexpr int kThreads = 1024;
constexpr uint64_t kNothing = ~uint64_t{0};

// A candidate as a number, the least of which is selected.
__device__ uint64_t Rank(float score, float score_threshold, int64_t index) {
  const uint32_t key = ScoreKey(score, score_threshold);
  return key == kNoCandidate ? kNothing : uint64_t{key} << 32 | static_cast<uint64_t>(index);
}

__device__ uint64_t WarpMin(uint64_t value) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    const uint64_t other = __shfl_xor_sync(kAllLanes, value, distance);
    value = other < value ? other : value;
  }
  return value;
}

__global__ void __launch_bounds__(kThreads)
    SelectKernel(const float* __restrict__ boxes, const float* __restrict__ scores,
                 const int32_t* __restrict__ labels, int64_t num_boxes,
                 SoftNmsAttributes attributes, int64_t size, float* __restrict__ current,
                 int32_t* __restrict__ indices, float* __restrict__ decayed_scores,
                 int32_t* count) {
  // In turns, so that a step's readers are done before the step after the next writes.
  __shared__ uint64_t warp_best[2][kThreads / kWarp];
  const auto box_at = [boxes](int64_t i) {
    return Box{boxes[4 * i], boxes[4 * i + 1], boxes[4 * i + 2], boxes[4 * i + 3]};
  };
  const float threshold = attributes.score_threshold;
  uint64_t best = kNothing;
  for (int64_t i = threadIdx.x; i < num_boxes; i += kThreads) {
    current[i] = scores[i];
    best = min(best, Rank(scores[i], threshold, i));
  }

  int64_t num_selected = 0;
  for (; num_selected < size; ++num_selected) {
    uint64_t* of_warps = warp_best[num_selected % 2];
    best = WarpMin(best);
    if (threadIdx.x % kWarp == 0) of_warps[threadIdx.x / kWarp] = best;
    __syncthreads();
    best = WarpMin(of_warps[threadIdx.x % kWarp]);
    if (best == kNothing) break;

    const int64_t selected = static_cast<uint32_t>(best);
    const Box box = box_at(selected);
    const float area = SuppressionArea(box);
    const int32_t label = labels[selected];
    best = kNothing;
    for (int64_t i = threadIdx.x; i < num_boxes; i += kThreads) {
      float score = current[i];
      if (!(score > threshold)) continue;
      if (i == selected) {
        indices[num_selected] = static_cast<int32_t>(i);
        decayed_scores[num_selected] = score;
        current[i] = BitCast<float>(0x7fc00000u);  // NaN: no candidate any more
        continue;
      }
      const Box other = box_at(i);
      const float iou =
          labels[i] == label ? PositiveIou(other, SuppressionArea(other), box, area) : 0.0f;
      if (iou > 0.0f) {
        score = DecayedScore(score, attributes.Factor(iou));
        current[i] = score;
      }
      best = min(best, Rank(score, threshold, i));
    }
  }
  for (int64_t k = num_selected + threadIdx.x; k < size; k += kThreads) {
    indices[k] = -1;
    decayed_scores[k] = 0.0f;
  }
  if (threadIdx.x == 0) *count = static_cast<int32_t>(num_selected);
}

}  // namespace

size_t SoftNmsCudaWorkspace(int64_t num_boxes) { return num_boxes * sizeof(float); }

const char* SoftNmsCuda(const float* boxes, const float* scores, const int32_t* labels,
                        int64_t num_boxes, const SoftNmsAttributes& attributes, void* workspace,
                        int32_t* indices, float* decayed_scores, int32_t* count, void* stream) {
  SelectKernel<<<1, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      boxes, scores, labels, num_boxes, attributes,
      SelectionSize(num_boxes, attributes.max_output_size), static_cast<float*>(workspace), indices,
      decayed_scores, count);
  return LastCudaError();
}

}  // namespace kvision
