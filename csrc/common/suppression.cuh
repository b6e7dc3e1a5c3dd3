// Greedy suppression on the GPU, of many sets of boxes at once. Nothing waits for the host.
//
// Candidates of all sets are sorted together by (set, score key), which is stable, so that equal
// scores keep their order. Then each set is settled a chunk of candidates at a time:
//   1. one bit for each pair of the chunk says whether the two overlap;
//   2. one thread block a set goes through these bits, 64 candidates at a time, and lists what is
//      kept;
//   3. every later candidate that overlaps what the chunk keeps is suppressed.
// Memory grows with the boxes, not with their pairs, and only boxes kept are compared with all.
#pragma once

#include <algorithm>

#include "common/launch.cuh"
#include "common/suppression.h"
#include "common/suppression_sets.cuh"

namespace kvision {
namespace {

constexpr int kScanGroups = kThreads / kChunkTiles;  // threads that share a word of the chunk
constexpr int kScanRows = kTile / kScanGroups;       // rows of a tile that each of them adds to it

// What Overlap says, by fewer steps. A minimum passes over NaN, but a box that has one has an
// infinite area, which overlaps nothing. The quotient is computed only where it may be equal to the
// threshold or near it, for a division costs as much as all the rest.
__device__ inline bool OverlapOnDevice(const Box& a, float area_a, const Box& b, float area_b,
                                       float iou_threshold) {
  const float width = fminf(a.x2, b.x2) - fmaxf(a.x1, b.x1);
  const float height = fminf(a.y2, b.y2) - fmaxf(a.y1, b.y1);
  if (!(width > 0.0f && height > 0.0f)) return false;
  const float inter = Product(width, height);
  const float area_union = area_a + area_b - inter;
  const float bound = Product(iou_threshold, area_union);
  if (bound > 1e-30f) {
    if (inter < 0.9999f * bound) return false;
    if (inter > 1.0001f * bound) return true;
  }
  return inter / area_union > iou_threshold;
}

// A chunk of every set from `first_set` on.
struct ChunkOfSets {
  SuppressionSets sets;
  int64_t first_set;
  int64_t first;  // candidate
  int64_t max_kept;
  float iou_threshold;
  const uint64_t* keys;  // sorted, of all sets, as are the values
  const int32_t* values;
  uint64_t* mask;
  uint64_t* suppressed;
  SuppressionProgress* progress;
  int32_t* kept;

  __device__ int64_t ChunkSize() const { return min(int64_t{kChunk}, sets.num_boxes); }
  __device__ int64_t TilesOfSet() const { return (sets.num_boxes + kTile - 1) / kTile; }

  // The parts of the set that is the `own`-th from first_set on.
  __device__ ChunkOfSets Of(int64_t own) const {
    ChunkOfSets set = *this;
    const int64_t rows = ChunkSize();
    set.first_set += own;
    set.keys += set.first_set * sets.num_boxes;
    set.values += set.first_set * sets.num_boxes;
    set.mask += own * rows * ((rows + kTile - 1) / kTile);
    set.suppressed += own * TilesOfSet();
    set.progress += own;
    set.kept += own * rows;
    return set;
  }

  // After Of.
  __device__ bool IsCandidate(int64_t place) const {
    return place < sets.num_boxes && static_cast<uint32_t>(keys[place]) != kNoCandidate;
  }
  __device__ bool IsSuppressed(int64_t place) const {
    return suppressed[place / kTile] >> (place % kTile) & 1;
  }
  // The mask of a row of the chunk, a word a tile.
  __device__ uint64_t* MaskOf(int64_t row) const {
    return mask + row * ((ChunkSize() + kTile - 1) / kTile);
  }
};

// Bit `j` of word (row, column tile): the candidate `row` overlaps candidate `j` of the tile. A
// thread a row, a block a pair of tiles. Tiles below the diagonal are never read, those on it have
// the bits of the earlier candidates alone; words of rows and tiles suppressed already mean
// nothing.
__global__ void __launch_bounds__(kTile) OverlapMaskKernel(ChunkOfSets chunks) {
  const int row_tile = blockIdx.y;
  const int column_tile = blockIdx.x;
  if (column_tile < row_tile) return;
  const ChunkOfSets chunk = chunks.Of(blockIdx.z);
  const int64_t first_row = chunk.first + row_tile * kTile;
  const int64_t first_column = chunk.first + column_tile * kTile;
  if (!chunk.IsCandidate(first_column) || chunk.progress->num_kept >= chunk.max_kept) return;
  if (chunk.suppressed[first_row / kTile] == ~uint64_t{0} ||
      chunk.suppressed[first_column / kTile] == ~uint64_t{0})
    return;

  __shared__ Box boxes[kTile];
  __shared__ float areas[kTile];
  const BoxesOfSet all = chunk.sets.BoxesOf(chunk.first_set);
  const int64_t column = first_column + threadIdx.x;
  if (column < chunk.sets.num_boxes) {
    boxes[threadIdx.x] = all[chunk.values[column]];
    areas[threadIdx.x] = SuppressionArea(boxes[threadIdx.x]);
  }
  __syncthreads();

  const int64_t row = first_row + threadIdx.x;
  if (row >= chunk.sets.num_boxes || chunk.IsSuppressed(row)) return;
  const Box box = all[chunk.values[row]];
  const float area = SuppressionArea(box);
  const int columns =
      row_tile == column_tile
          ? static_cast<int>(threadIdx.x)
          : static_cast<int>(min(int64_t{kTile}, chunk.sets.num_boxes - first_column));
  uint64_t word = 0;
  for (int j = 0; j < columns; ++j) {
    if (OverlapOnDevice(boxes[j], areas[j], box, area, chunk.iou_threshold)) {
      word |= uint64_t{1} << j;
    }
  }
  chunk.MaskOf(row - chunk.first)[column_tile] = word;
}

__device__ inline uint64_t Ballot64(bool low, bool high) {
  return __ballot_sync(kAllLanes, low) | static_cast<uint64_t>(__ballot_sync(kAllLanes, high))
                                             << kWarp;
}

// Which of 64 candidates are kept, for one warp: `alive` are those not suppressed before, and a
// lane has the earlier ones that overlap candidates `lane` and `lane + 32`. At once for all whose
// earlier overlapping ones are decided, which takes few rounds.
__device__ inline uint64_t KeptOfTile(uint64_t alive, uint64_t earlier_of_low,
                                      uint64_t earlier_of_high) {
  const uint64_t low = uint64_t{1} << (threadIdx.x % kWarp), high = low << kWarp;
  uint64_t undecided = alive, kept = 0;
  while (undecided != 0) {
    const uint64_t now = Ballot64((undecided & low) != 0 && (earlier_of_low & undecided) == 0,
                                  (undecided & high) != 0 && (earlier_of_high & undecided) == 0);
    kept |= now;
    undecided &= ~now;
    undecided &= ~Ballot64((earlier_of_low & now) != 0, (earlier_of_high & now) != 0);
  }
  return kept;
}

// A block a set. `result.Keep(set, rank, index, score key)` is called for every box kept, then
// `result.Finish(set, number kept)` for every chunk.
template <typename Result>
__global__ void __launch_bounds__(kThreads) ScanKernel(ChunkOfSets chunks, Result result) {
  __shared__ uint64_t suppressed[kChunkTiles];
  __shared__ uint64_t tile_kept;
  const ChunkOfSets chunk = chunks.Of(blockIdx.x);
  const int64_t size = min(chunk.ChunkSize(), chunk.sets.num_boxes - chunk.first);
  int64_t num_kept = chunk.progress->num_kept;
  const int64_t kept_before = num_kept;
  int candidates = 0;
  if (num_kept < chunk.max_kept) {
    for (int64_t row = threadIdx.x; row - threadIdx.x < size; row += kThreads) {
      candidates += __syncthreads_count(row < size && chunk.IsCandidate(chunk.first + row));
    }
  }
  const int num_tiles = (candidates + kTile - 1) / kTile;
  if (threadIdx.x < num_tiles) {
    suppressed[threadIdx.x] = chunk.suppressed[chunk.first / kTile + threadIdx.x];
  }
  // Rows past the end of the set are not alive, whatever their words hold.
  const auto earlier_of = [&](int tile, int lane) {
    const int64_t row = tile * kTile + lane;
    return tile < num_tiles && row < size ? chunk.MaskOf(row)[tile] : 0;
  };
  const int lane = threadIdx.x % kWarp;
  const bool decides = threadIdx.x < kWarp;
  uint64_t next_low = 0, next_high = 0;
  if (decides) {
    next_low = earlier_of(0, lane);
    next_high = earlier_of(0, lane + kWarp);
  }
  for (int tile = 0; tile < num_tiles && num_kept < chunk.max_kept; ++tile) {
    __syncthreads();
    const uint64_t earlier_of_low = next_low, earlier_of_high = next_high;
    if (decides) {
      next_low = earlier_of(tile + 1, lane);
      next_high = earlier_of(tile + 1, lane + kWarp);
    }
    uint64_t alive = ~suppressed[tile];
    if (candidates - tile * kTile < kTile) {
      alive &= (uint64_t{1} << (candidates - tile * kTile)) - 1;
    }
    if (alive == 0) continue;
    // Read before it is known which are needed, so that warps that wait for the decision do so.
    const int word = threadIdx.x % kChunkTiles;
    const int first_row = threadIdx.x / kChunkTiles * kScanRows;
    const bool adds = word > tile && word < num_tiles;
    uint64_t rows[kScanRows];
#pragma unroll
    for (int i = 0; i < kScanRows; ++i) {
      const int64_t row = tile * kTile + first_row + i;
      rows[i] = adds && row < size ? chunk.MaskOf(row)[word] : 0;
    }
    if (decides) {
      uint64_t kept = KeptOfTile(alive, earlier_of_low, earlier_of_high);
      while (__popcll(kept) > chunk.max_kept - num_kept) {
        kept &= ~(uint64_t{1} << (63 - __clzll(kept)));
      }
      tile_kept = kept;
    }
    __syncthreads();
    const uint64_t kept = tile_kept;
    if (threadIdx.x < kTile && (kept >> threadIdx.x & 1)) {
      const int64_t place = chunk.first + tile * kTile + threadIdx.x;
      const int64_t rank = num_kept + __popcll(kept & ((uint64_t{1} << threadIdx.x) - 1));
      chunk.kept[rank - kept_before] = static_cast<int32_t>(place);
      result.Keep(chunk.first_set, rank, chunk.values[place],
                  static_cast<uint32_t>(chunk.keys[place]));
    }
    num_kept += __popcll(kept);
    uint64_t bits = 0;
#pragma unroll
    for (int i = 0; i < kScanRows; ++i) bits |= kept >> (first_row + i) & 1 ? rows[i] : 0;
    if (adds && bits != 0) {
      unsigned* const halves = reinterpret_cast<unsigned*>(&suppressed[word]);
      atomicOr(halves, static_cast<unsigned>(bits));
      atomicOr(halves + 1, static_cast<unsigned>(bits >> 32));
    }
  }
  if (threadIdx.x == 0) {
    *chunk.progress = {static_cast<int32_t>(num_kept),
                       static_cast<int32_t>(num_kept - kept_before)};
    result.Finish(chunk.first_set, num_kept);
  }
}

// Suppresses the candidates behind the chunk that overlap what it keeps: a thread a candidate, a
// row of blocks for every kThreads boxes kept.
__global__ void __launch_bounds__(kThreads) SuppressLaterKernel(ChunkOfSets chunks) {
  __shared__ Box boxes[kThreads];
  __shared__ float areas[kThreads];
  const ChunkOfSets chunk = chunks.Of(blockIdx.z);
  const SuppressionProgress progress = *chunk.progress;
  const int first_kept = blockIdx.y * kThreads;
  const int num_kept = min(kThreads, progress.kept_of_chunk - first_kept);
  if (num_kept <= 0 || progress.num_kept >= chunk.max_kept) return;
  const int64_t place = chunk.first + kChunk + ThreadInGrid();
  const bool alive = chunk.IsCandidate(place) && !chunk.IsSuppressed(place);
  if (__syncthreads_or(alive) == 0) return;
  const BoxesOfSet all = chunk.sets.BoxesOf(chunk.first_set);
  if (threadIdx.x < num_kept) {
    boxes[threadIdx.x] = all[chunk.values[chunk.kept[first_kept + threadIdx.x]]];
    areas[threadIdx.x] = SuppressionArea(boxes[threadIdx.x]);
  }
  __syncthreads();
  bool overlaps = false;
  if (alive) {
    const Box box = all[chunk.values[place]];
    const float area = SuppressionArea(box);
    for (int i = 0; i < num_kept && !overlaps; ++i) {
      overlaps = OverlapOnDevice(boxes[i], areas[i], box, area, chunk.iou_threshold);
    }
  }
  const unsigned bits = __ballot_sync(kAllLanes, overlaps);
  if (threadIdx.x % kWarp == 0 && bits != 0) {
    atomicOr(reinterpret_cast<unsigned long long*>(&chunk.suppressed[place / kTile]),
             static_cast<unsigned long long>(bits) << (place % kTile));
  }
}

// Tells `result` what each set keeps of its sorted candidates.
template <typename Result>
void SuppressSorted(const SuppressionSets& sets, float iou_threshold, int64_t max_kept,
                    const SuppressionWorkspace& workspace, const Result& result,
                    cudaStream_t stream) {
  const int64_t size = sets.num_boxes;
  for (int64_t set = 0; set < sets.Count(); set += workspace.sets_at_once) {
    const int64_t count = std::min(workspace.sets_at_once, sets.Count() - set);
    const auto num_sets = static_cast<unsigned>(count);
    cudaMemsetAsync(workspace.suppressed, 0, count * NumTiles(size) * sizeof(uint64_t), stream);
    cudaMemsetAsync(workspace.progress, 0, count * sizeof(SuppressionProgress), stream);
    for (int64_t first = 0; first < size; first += kChunk) {
      const ChunkOfSets chunk = {sets,
                                 set,
                                 first,
                                 max_kept,
                                 iou_threshold,
                                 workspace.keys[1],
                                 workspace.values[1],
                                 workspace.mask,
                                 workspace.suppressed,
                                 workspace.progress,
                                 workspace.kept};
      const auto tiles = static_cast<unsigned>(NumTiles(std::min<int64_t>(kChunk, size - first)));
      OverlapMaskKernel<<<dim3(tiles, tiles, num_sets), kTile, 0, stream>>>(chunk);
      ScanKernel<<<num_sets, kThreads, 0, stream>>>(chunk, result);
      const int64_t later = size - first - kChunk;
      if (later > 0) {
        SuppressLaterKernel<<<dim3(BlocksFor(later, kThreads), kChunk / kThreads, num_sets),
                              kThreads, 0, stream>>>(chunk);
      }
    }
  }
}

}  // namespace
}  // namespace kvision
