// Candidates are sorted; then a warp a candidate goes through those before it, once for its
// greatest IoU and once for its decay; then the decayed scores are sorted. Nothing waits for the
// host.
#include <algorithm>
#include <cub/device/device_radix_sort.cuh>

#include "common/launch.cuh"
#include "ops/matrix_nms/matrix_nms.h"

namespace kvision {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;

// Device memory of a run.
struct Workspace {
  uint32_t* keys[2];  // to be sorted, and sorted
  int32_t* values[2];
  Box* boxes;  // by rank, like the three below
  float* areas;
  int32_t* labels;
  float* greatest_ious;
  float* decayed;  // by index
  void* sort;
  size_t sort_bytes = 0;
  size_t bytes = 0;

  Workspace(int64_t num_boxes, void* memory) {
    cub::DeviceRadixSort::SortPairs(nullptr, sort_bytes, keys[0], keys[1], values[0], values[1],
                                    num_boxes);
    const auto take = [this, memory](auto*& part, size_t size) {
      part = reinterpret_cast<std::remove_reference_t<decltype(part)>>(static_cast<char*>(memory) +
                                                                       bytes);
      bytes += (size + 255) / 256 * 256;
    };
    take(boxes, num_boxes * sizeof(Box));
    for (uint32_t*& part : keys) take(part, num_boxes * sizeof(uint32_t));
    for (int32_t*& part : values) take(part, num_boxes * sizeof(int32_t));
    take(areas, num_boxes * sizeof(float));
    take(labels, num_boxes * sizeof(int32_t));
    take(greatest_ious, num_boxes * sizeof(float));
    take(decayed, num_boxes * sizeof(float));
    sort = static_cast<char*>(memory) + bytes;
    bytes += sort_bytes;
  }
};

__global__ void KeysKernel(const float* scores, int64_t num_boxes, float score_threshold,
                           uint32_t* keys, int32_t* values) {
  const int64_t i = ThreadInGrid();
  if (i >= num_boxes) return;
  keys[i] = ScoreKey(scores[i], score_threshold);
  values[i] = static_cast<int32_t>(i);
}

__global__ void GatherKernel(const float* boxes, const int32_t* labels, int64_t num_boxes,
                             Workspace workspace) {
  const int64_t rank = ThreadInGrid();
  if (rank >= num_boxes) return;
  const int64_t i = workspace.values[1][rank];
  const Box box{boxes[4 * i], boxes[4 * i + 1], boxes[4 * i + 2], boxes[4 * i + 3]};
  workspace.boxes[rank] = box;
  workspace.areas[rank] = SuppressionArea(box);
  workspace.labels[rank] = labels[i];
}

// Calls `visit(before, iou)` for the ranks before this warp's that overlap it, shared out over the
// warp's threads. All threads of the block take part.
template <typename Visit>
__device__ void VisitOverlapsBefore(const Workspace& workspace, int64_t num_boxes, int64_t rank,
                                    const Visit& visit) {
  __shared__ Box boxes[kThreads];
  __shared__ float areas[kThreads];
  __shared__ int32_t labels[kThreads];
  const int64_t own = min(rank, num_boxes - 1);
  const Box box = workspace.boxes[own];
  const float area = workspace.areas[own];
  const int32_t label = workspace.labels[own];
  const int64_t block_rank = int64_t{blockIdx.x} * kWarps;
  const bool has_candidates = workspace.keys[1][block_rank] != kNoCandidate;
  const int64_t end = has_candidates ? min(block_rank + kWarps, num_boxes) : 0;
  for (int64_t first = 0; first < end; first += kThreads) {
    const int64_t mine = min(first + threadIdx.x, num_boxes - 1);
    boxes[threadIdx.x] = workspace.boxes[mine];
    areas[threadIdx.x] = workspace.areas[mine];
    labels[threadIdx.x] = workspace.labels[mine];
    __syncthreads();
    const int64_t rows = min(int64_t{kThreads}, rank - first);
    for (int64_t row = threadIdx.x % kWarp; row < rows; row += kWarp) {
      if (labels[row] != label) continue;
      const float iou = PositiveIou(boxes[row], areas[row], box, area);
      if (iou > 0.0f) visit(first + row, iou);
    }
    __syncthreads();
  }
}

__device__ int64_t RankOfWarp() { return ThreadInGrid() / kWarp; }

__global__ void GreatestIouKernel(int64_t num_boxes, Workspace workspace) {
  const int64_t rank = RankOfWarp();
  float greatest = 0.0f;
  VisitOverlapsBefore(workspace, num_boxes, rank,
                      [&](int64_t, float iou) { greatest = iou > greatest ? iou : greatest; });
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    const float other = __shfl_xor_sync(kAllLanes, greatest, distance);
    greatest = other > greatest ? other : greatest;
  }
  if (threadIdx.x % kWarp == 0 && rank < num_boxes) workspace.greatest_ious[rank] = greatest;
}

__global__ void DecayKernel(const float* scores, int64_t num_boxes, MatrixNmsAttributes attributes,
                            Workspace workspace) {
  const int64_t rank = RankOfWarp();
  MatrixNmsDecay decay(attributes);
  VisitOverlapsBefore(workspace, num_boxes, rank, [&](int64_t before, float iou) {
    decay.Include(iou, workspace.greatest_ious[before]);
  });
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    decay.IncludeTerm(__shfl_xor_sync(kAllLanes, decay.LeastTerm(), distance));
  }
  if (threadIdx.x % kWarp == 0 && rank < num_boxes) {
    const int32_t i = workspace.values[1][rank];
    workspace.decayed[i] = DecayedScore(scores[i], decay.Factor());
  }
}

__global__ void ResultKernel(int64_t num_boxes, int64_t size, Workspace workspace, int32_t* indices,
                             float* decayed_scores, int32_t* count) {
  const int64_t k = ThreadInGrid();
  const auto returned = [&](int64_t rank) {
    return rank < min(size, num_boxes) && workspace.keys[1][rank] != kNoCandidate;
  };
  if (k < size) {
    const int32_t index = returned(k) ? workspace.values[1][k] : -1;
    indices[k] = index;
    decayed_scores[k] = index < 0 ? 0.0f : workspace.decayed[index];
    if (index >= 0 && !returned(k + 1)) *count = static_cast<int32_t>(k + 1);
  }
}

}  // namespace

size_t MatrixNmsCudaWorkspace(int64_t num_boxes) { return Workspace(num_boxes, nullptr).bytes; }

const char* MatrixNmsCuda(const float* boxes, const float* scores, const int32_t* labels,
                          int64_t num_boxes, const MatrixNmsAttributes& attributes, void* workspace,
                          int32_t* indices, float* decayed_scores, int32_t* count, void* stream) {
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  const int64_t size = SelectionSize(num_boxes, attributes.max_output_size);
  Workspace memory(num_boxes, workspace);
  const auto sort = [&](const float* by) {
    KeysKernel<<<BlocksFor(num_boxes, kThreads), kThreads, 0, cuda_stream>>>(
        by, num_boxes, attributes.score_threshold, memory.keys[0], memory.values[0]);
    cub::DeviceRadixSort::SortPairs(memory.sort, memory.sort_bytes, memory.keys[0], memory.keys[1],
                                    memory.values[0], memory.values[1], num_boxes, 0, 32,
                                    cuda_stream);
  };
  cudaMemsetAsync(count, 0, sizeof(int32_t), cuda_stream);
  if (num_boxes > 0) {
    const unsigned num_warp_blocks = BlocksFor(num_boxes, kWarps);
    sort(scores);
    GatherKernel<<<BlocksFor(num_boxes, kThreads), kThreads, 0, cuda_stream>>>(boxes, labels,
                                                                               num_boxes, memory);
    GreatestIouKernel<<<num_warp_blocks, kThreads, 0, cuda_stream>>>(num_boxes, memory);
    DecayKernel<<<num_warp_blocks, kThreads, 0, cuda_stream>>>(scores, num_boxes, attributes,
                                                               memory);
    sort(memory.decayed);
  }
  if (size > 0) {
    ResultKernel<<<BlocksFor(size, kThreads), kThreads, 0, cuda_stream>>>(
        num_boxes, size, memory, indices, decayed_scores, count);
  }
  return LastCudaError();
}

}  // namespace kvision
