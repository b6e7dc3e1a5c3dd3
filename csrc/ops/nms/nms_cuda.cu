#include "common/suppression.cuh"
#include "ops/nms/nms.h"

namespace kvision {
namespace {

struct NmsResult {
  int32_t* indices;
  int32_t* count;

  __device__ void Keep(int64_t, int64_t rank, int32_t index, uint32_t) const {
    indices[rank] = index;
  }
  __device__ void Finish(int64_t, int64_t num_kept) const {
    *count = static_cast<int32_t>(num_kept);
  }
};

SuppressionSets OneSet(const float* boxes, const float* scores, int64_t num_boxes) {
  return {boxes, scores, 1, num_boxes, 1, true};
}

}  // namespace

size_t NmsCudaWorkspace(int64_t num_boxes) {
  return SuppressionWorkspace(OneSet(nullptr, nullptr, num_boxes), nullptr).bytes;
}

const char* NmsCuda(const float* boxes, const float* scores, int64_t num_boxes,
                    const NmsAttributes& attributes, void* workspace, int32_t* indices,
                    int32_t* count, void* stream) {
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  const int64_t size = NmsOutputSize(num_boxes, attributes.max_output_size);
  cudaMemsetAsync(indices, 0xff, size * sizeof(int32_t), cuda_stream);  // -1
  cudaMemsetAsync(count, 0, sizeof(int32_t), cuda_stream);
  if (num_boxes > 0) {
    const SuppressionSets sets = OneSet(boxes, scores, num_boxes);
    SuppressionWorkspace memory(sets, workspace);
    SortCandidates(sets, attributes.score_threshold, memory, cuda_stream);
    SuppressSorted(sets, attributes.iou_threshold, size, memory, NmsResult{indices, count},
                   cuda_stream);
  }
  return LastCudaError();
}

}  // namespace kvision
