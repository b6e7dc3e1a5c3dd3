// The sets of boxes that are suppressed together on a GPU, their candidates in order, and the
// memory that it takes.
#pragma once

#include <algorithm>
#include <cub/device/device_radix_sort.cuh>

#include "common/launch.cuh"
#include "common/suppression.h"

namespace kvision {
namespace {

constexpr int kTile = 64;  // bits of a mask word, candidates of a scan step
constexpr int kThreads = 256;
constexpr int kChunk = 2048;  // candidates
constexpr int kChunkTiles = kChunk / kTile;
constexpr int64_t kMaskBytes = int64_t{256} << 20;

inline int64_t NumTiles(int64_t size) { return (size + kTile - 1) / kTile; }

// The boxes of one set, `stride` floats apart.
struct BoxesOfSet {
  const float* first;
  int64_t stride;

  __device__ Box operator[](int64_t index) const {
    const float* box = first + index * stride;
    return Box{box[0], box[1], box[2], box[3]};
  }
};

// Set `s` holds the boxes of class `s % num_classes` of image `s / num_classes`.
struct SuppressionSets {
  const float* boxes;   // (batch, num_boxes, num_classes or 1, 4)
  const float* scores;  // (batch, num_boxes, num_classes)
  int64_t batch, num_boxes, num_classes;
  bool shared_boxes;

  __host__ __device__ int64_t Count() const { return batch * num_classes; }
  __host__ __device__ int64_t Size() const { return Count() * num_boxes; }

  __device__ BoxesOfSet BoxesOf(int64_t set) const {
    const int64_t row = set / num_classes * num_boxes;
    if (shared_boxes) return {boxes + row * 4, 4};
    return {boxes + (row * num_classes + set % num_classes) * 4, num_classes * 4};
  }
  __device__ float ScoreAt(int64_t set, int64_t index) const {
    return scores[(set / num_classes * num_boxes + index) * num_classes + set % num_classes];
  }
};

// How far a set is settled.
struct SuppressionProgress {
  int32_t num_kept;
  int32_t kept_of_chunk;  // of these, those of the chunk settled last
};

// Device memory of a run. `keys` and `values` come in pairs: what is sorted, and the result. All
// else is that of the `sets_at_once` sets that are settled together.
struct SuppressionWorkspace {
  uint64_t* keys[2] = {};
  int32_t* values[2] = {};
  void* sort;
  size_t sort_bytes;
  int64_t sets_at_once;
  uint64_t* mask;        // (sets, candidates of a chunk, tiles of a chunk)
  uint64_t* suppressed;  // (sets, tiles): a bit for each candidate
  SuppressionProgress* progress;
  int32_t* kept;  // (sets, candidates of a chunk): places among the sorted
  size_t bytes;

  SuppressionWorkspace(const SuppressionSets& sets, void* memory) {
    const int64_t size = sets.Size();
    const int64_t chunk = std::min<int64_t>(kChunk, sets.num_boxes);
    const int64_t set_mask = chunk * NumTiles(chunk) * sizeof(uint64_t);
    sets_at_once = std::max<int64_t>(
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
    mask = static_cast<uint64_t*>(take(sets_at_once * set_mask));
    suppressed =
        static_cast<uint64_t*>(take(sets_at_once * NumTiles(sets.num_boxes) * sizeof(uint64_t)));
    progress = static_cast<SuppressionProgress*>(take(sets_at_once * sizeof(SuppressionProgress)));
    kept = static_cast<int32_t*>(take(sets_at_once * chunk * sizeof(int32_t)));
  }

  // Sorts pairs [0] into [1] by keys whose high halves are below `groups`.
  void Sort(int64_t size, int64_t groups, cudaStream_t stream) {
    int bits = 32;
    while ((groups - 1) >> (bits - 32) != 0) ++bits;
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

// Sorts the candidates of every set. Afterwards keys[0] and values[0] are free.
void SortCandidates(const SuppressionSets& sets, float score_threshold,
                    SuppressionWorkspace& workspace, cudaStream_t stream) {
  ScoreKeysKernel<<<BlocksFor(sets.Size(), kThreads), kThreads, 0, stream>>>(
      sets, score_threshold, workspace.keys[0], workspace.values[0]);
  workspace.Sort(sets.Size(), sets.Count(), stream);
}

}  // namespace
}  // namespace kvision
