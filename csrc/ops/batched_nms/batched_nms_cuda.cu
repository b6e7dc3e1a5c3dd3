#include "common/suppression.cuh"
#include "ops/batched_nms/batched_nms.h"

namespace kvision {
namespace {

// What a class keeps goes to the (image, box, class) place of a second sort, whose keys are
// (image, score key): it is stable, so that equal scores ascend by box and class.
struct ClassResult {
  uint64_t* keys;
  int64_t num_boxes, num_classes;

  __device__ void Keep(int64_t set, int64_t, int32_t index, uint32_t score_key) const {
    const int64_t image = set / num_classes;
    const int64_t pair = index * num_classes + set % num_classes;
    keys[image * num_boxes * num_classes + pair] = static_cast<uint64_t>(image) << 32 | score_key;
  }
  __device__ void Finish(int64_t, int64_t) const {}
};

__global__ void NothingKeptKernel(int64_t size, int64_t pairs, uint64_t* keys, int32_t* values) {
  const int64_t i = ThreadInGrid();
  if (i >= size) return;
  keys[i] = static_cast<uint64_t>(i / pairs) << 32 | kNoCandidate;
  values[i] = static_cast<int32_t>(i % pairs);
}

__global__ void DetectionsKernel(int64_t batch, int64_t pairs, int64_t num_classes, int64_t size,
                                 const uint64_t* keys, const int32_t* values, int32_t* indices,
                                 int32_t* labels, int32_t* num_detections) {
  const int64_t i = ThreadInGrid();
  if (i >= batch * size) return;
  const int64_t image = i / size;
  const int64_t rank = i % size;
  const int64_t from = image * pairs + rank;
  const bool found = rank < pairs && static_cast<uint32_t>(keys[from]) != kNoCandidate;
  indices[i] = found ? values[from] / static_cast<int32_t>(num_classes) : -1;
  labels[i] = found ? values[from] % static_cast<int32_t>(num_classes) : -1;
  if (found) atomicMax(num_detections + image, static_cast<int32_t>(rank + 1));
}

SuppressionSets SetsOf(const float* boxes, const float* scores, const BatchedNmsShape& shape) {
  return {boxes, scores, shape.batch, shape.num_boxes, shape.num_classes, shape.shared_boxes};
}

}  // namespace

size_t BatchedNmsCudaWorkspace(const BatchedNmsShape& shape) {
  return SuppressionWorkspace(SetsOf(nullptr, nullptr, shape), nullptr).bytes;
}

const char* BatchedNmsCuda(const float* boxes, const float* scores, const BatchedNmsShape& shape,
                           const BatchedNmsAttributes& attributes, void* workspace,
                           int32_t* indices, int32_t* labels, int32_t* num_detections,
                           void* stream) {
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  const int64_t size = attributes.max_output_size;
  const int64_t pairs = shape.num_boxes * shape.num_classes;
  const SuppressionSets sets = SetsOf(boxes, scores, shape);
  SuppressionWorkspace memory(sets, workspace);
  cudaMemsetAsync(num_detections, 0, shape.batch * sizeof(int32_t), cuda_stream);
  if (pairs > 0) {
    SortCandidates(sets, attributes.score_threshold, memory, cuda_stream);
    NothingKeptKernel<<<BlocksFor(sets.Size(), kThreads), kThreads, 0, cuda_stream>>>(
        sets.Size(), pairs, memory.keys[0], memory.values[0]);
    const int64_t limit = std::min(size, attributes.max_output_size_per_class);
    SuppressSorted(sets, attributes.iou_threshold, limit, memory,
                   ClassResult{memory.keys[0], shape.num_boxes, shape.num_classes}, cuda_stream);
    memory.Sort(sets.Size(), shape.batch, cuda_stream);
  }
  DetectionsKernel<<<BlocksFor(shape.batch * size, kThreads), kThreads, 0, cuda_stream>>>(
      shape.batch, pairs, shape.num_classes, size, memory.keys[1], memory.values[1], indices,
      labels, num_detections);
  return LastCudaError();
}

}  // namespace kvision
