// Greedy suppression on the GPU, of many sets of boxes at once. Nothing waits for the host.
//
// Candidates of all sets are sorted together by (set, score key), which is stable, so that equal
// scores keep their order. Then, for as many sets as the mask has room for: one bit for each pair
// of a set's candidates says whether the earlier suppresses the later, and one thread block a set
// scans these rows, 64 candidates at a time.
#pragma once

#include <algorithm>
#include <cub/device/device_radix_sort.cuh>

#include "common/launch.cuh"
#include "common/suppression.h"

namespace kvision {
namespace {

constexpr int kTile = 64;  // bits of a mask word, candidates of a scan step
constexpr int kThreads = 256;
constexpr int64_t kMaskBytes = int64_t{256} << 20;
// The scan holds a bit for each candidate in shared memory, of which every GPU has 48 KiB.
constexpr int64_t kMaxBoxes = (int64_t{47} << 10) * 8;

inline int64_t NumTiles(int64_t size) { return (size + kTile - 1) / kTile; }

// Set `s` holds the boxes of class `s % num_classes` of image `s / num_classes`.
struct SuppressionSets {
  const float* boxes;   // (batch, num_boxes, num_classes or 1, 4)
  const float* scores;  // (batch, num_boxes, num_classes)
  int64_t batch, num_boxes, num_classes;
  bool shared_boxes;

  __host__ __device__ int64_t Count() const { return batch * num_classes; }
  __host__ __device__ int64_t Size() const { return Count() * num_boxes; }

  __device__ Box BoxAt(int64_t set, int64_t index) const {
    const int64_t row = set / num_classes * num_boxes + index;
    const float* box = boxes + (shared_boxes ? row : row * num_classes + set % num_classes) * 4;
    return Box{box[0], box[1], box[2], box[3]};
  }
  __device__ float ScoreAt(int64_t set, int64_t index) const {
    return scores[(set / num_classes * num_boxes + index) * num_classes + set % num_classes];
  }
};

// Device memory of a run. `keys` and `values` come in pairs: what is sorted, and the result.
struct SuppressionWorkspace {
  uint64_t* keys[2] = {};
  int32_t* values[2] = {};
  void* sort;
  size_t sort_bytes;
  uint64_t* mask;
  int64_t mask_sets;
  size_t bytes;

  SuppressionWorkspace(const SuppressionSets& sets, void* memory) {
    const int64_t size = sets.Size();
    const int64_t set_mask = sets.num_boxes * NumTiles(sets.num_boxes) * sizeof(uint64_t);
    mask_sets = std::max<int64_t>(
        1, std::min<int64_t>({sets.Count(), kMaskBytes / std::max<int64_t>(set_mask, 1), 65535}));
    sort_bytes = 0;
    cub::DeviceRadixSort::SortPairs(nullptr, sort_bytes, keys[0], keys[1], values[0], values[1],
                                    size);
    bytes = 0;
    const auto take = [this, memory](size_t part) {
      void* start = static_cast<char*>(memory) + bytes;
      bytes += (part + 255) / 256 * 256;
      return start;
    };
    for (uint64_t*& part : keys) part = static_cast<uint64_t*>(take(size * sizeof(uint64_t)));
    for (int32_t*& part : values) part = static_cast<int32_t*>(take(size * sizeof(int32_t)));
    sort = take(sort_bytes);
    mask = static_cast<uint64_t*>(take(mask_sets * set_mask));
  }

  // Sorts pairs [0] into [1] by keys whose high halves are below `groups`.
  void Sort(int64_t size, int64_t groups, cudaStream_t stream) {
    int bits = 32;
    while (groups >> (bits - 32) != 0) ++bits;
    cub::DeviceRadixSort::SortPairs(sort, sort_bytes, keys[0], keys[1], values[0], values[1], size,
                                    0, bits, stream);
  }
};

__global__ void ScoreKeysKernel(SuppressionSets sets, float score_threshold, uint64_t* keys,
                                int32_t* values) {
  const int64_t i = ThreadInGrid();
  if (i >= sets.Size()) return;
  const int64_t set = i / sets.num_boxes;
  const int64_t index = i % sets.num_boxes;
  keys[i] = static_cast<uint64_t>(set) << 32 | ScoreKey(sets.ScoreAt(set, index), score_threshold);
  values[i] = static_cast<int32_t>(index);
}

// Bit `j` of word (row, column_tile): the candidate `row` suppresses the later candidate `j` of
// the tile. A thread a row, a block a pair of tiles; tiles below the diagonal are never read.
__global__ void OverlapMaskKernel(SuppressionSets sets, int64_t first_set, float iou_threshold,
                                  const uint64_t* keys, const int32_t* values, uint64_t* mask) {
  const int64_t row_tile = blockIdx.y;
  const int64_t column_tile = blockIdx.x;
  if (column_tile < row_tile) return;
  const int64_t set = first_set + blockIdx.z;
  const int64_t size = sets.num_boxes;
  keys += set * size;
  values += set * size;
  if (static_cast<uint32_t>(keys[row_tile * kTile]) == kNoCandidate) return;

  __shared__ Box boxes[kTile];
  __shared__ float areas[kTile];
  const int64_t column = column_tile * kTile + threadIdx.x;
  if (column < size) {
    boxes[threadIdx.x] = sets.BoxAt(set, values[column]);
    areas[threadIdx.x] = SuppressionArea(boxes[threadIdx.x]);
  }
  __syncthreads();

  const int64_t row = row_tile * kTile + threadIdx.x;
  if (row >= size) return;
  const Box box = sets.BoxAt(set, values[row]);
  const float area = SuppressionArea(box);
  const int64_t columns = min(static_cast<int64_t>(kTile), size - column_tile * kTile);
  uint64_t word = 0;
  for (int64_t j = row_tile == column_tile ? threadIdx.x + 1 : 0; j < columns; ++j) {
    if (Overlap(boxes[j], areas[j], box, area, iou_threshold)) word |= uint64_t{1} << j;
  }
  mask[(blockIdx.z * size + row) * gridDim.x + column_tile] = word;
}

// A block a set. `result.Keep(set, rank, index, score key)` is called for every box kept, then
// `result.Finish(set, number kept)` once.
template <typename Result>
__global__ void ScanKernel(SuppressionSets sets, int64_t first_set, int64_t max_kept,
                           const uint64_t* keys, const int32_t* values, const uint64_t* mask,
                           Result result) {
  extern __shared__ uint64_t suppressed[];
  __shared__ uint64_t rows[kTile];
  __shared__ uint64_t tile_kept;
  const int64_t set = first_set + blockIdx.x;
  const int64_t size = sets.num_boxes;
  const int64_t num_tiles = (size + kTile - 1) / kTile;
  keys += set * size;
  values += set * size;
  mask += blockIdx.x * size * num_tiles;
  for (int64_t tile = threadIdx.x; tile < num_tiles; tile += kThreads) suppressed[tile] = 0;

  int64_t num_kept = 0;
  for (int64_t tile = 0; tile < num_tiles && num_kept < max_kept; ++tile) {
    const int64_t row = tile * kTile + threadIdx.x;
    const bool candidate =
        threadIdx.x < kTile && row < size && static_cast<uint32_t>(keys[row]) != kNoCandidate;
    if (candidate) rows[threadIdx.x] = mask[row * num_tiles + tile];
    const int candidates = __syncthreads_count(candidate);
    if (threadIdx.x == 0) {
      uint64_t out = suppressed[tile];
      uint64_t kept = 0;
      int64_t room = max_kept - num_kept;
      for (int i = 0; i < candidates && room > 0; ++i) {
        if (out >> i & 1) continue;
        kept |= uint64_t{1} << i;
        out |= rows[i];
        --room;
      }
      tile_kept = kept;
    }
    __syncthreads();
    const uint64_t kept = tile_kept;
    if (candidate && (kept >> threadIdx.x & 1)) {
      const int64_t rank = num_kept + __popcll(kept & ((uint64_t{1} << threadIdx.x) - 1));
      result.Keep(set, rank, values[row], static_cast<uint32_t>(keys[row]));
    }
    num_kept += __popcll(kept);
    if (candidates < kTile) break;
    for (int64_t later = tile + 1 + threadIdx.x; later < num_tiles; later += kThreads) {
      uint64_t word = suppressed[later];
      for (uint64_t left = kept; left != 0; left &= left - 1) {
        word |= mask[(tile * kTile + __ffsll(left) - 1) * num_tiles + later];
      }
      suppressed[later] = word;
    }  // the next tile's count is the barrier behind these writes
  }
  if (threadIdx.x == 0) result.Finish(set, num_kept);
}

// Sorts the candidates of every set. Afterwards keys[0] and values[0] are free.
void SortCandidates(const SuppressionSets& sets, float score_threshold,
                    SuppressionWorkspace& workspace, cudaStream_t stream) {
  ScoreKeysKernel<<<BlocksFor(sets.Size(), kThreads), kThreads, 0, stream>>>(
      sets, score_threshold, workspace.keys[0], workspace.values[0]);
  workspace.Sort(sets.Size(), sets.Count(), stream);
}

// Tells `result` what each set keeps of its sorted candidates.
template <typename Result>
void SuppressSorted(const SuppressionSets& sets, float iou_threshold, int64_t max_kept,
                    const SuppressionWorkspace& workspace, const Result& result,
                    cudaStream_t stream) {
  const auto num_tiles = static_cast<unsigned>(NumTiles(sets.num_boxes));
  for (int64_t first = 0; first < sets.Count(); first += workspace.mask_sets) {
    const auto count = static_cast<unsigned>(std::min(workspace.mask_sets, sets.Count() - first));
    OverlapMaskKernel<<<dim3(num_tiles, num_tiles, count), kTile, 0, stream>>>(
        sets, first, iou_threshold, workspace.keys[1], workspace.values[1], workspace.mask);
    ScanKernel<<<count, kThreads, num_tiles * sizeof(uint64_t), stream>>>(
        sets, first, max_kept, workspace.keys[1], workspace.values[1], workspace.mask, result);
  }
}

}  // namespace
}  // namespace kvision
