// Which taps of a branch fall on the image, and how the CPU kernels cut their work.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#include "ops/depthwise_atrous_pyramid_pooling/depthwise_atrous_pyramid_pooling.h"

namespace kvision {

// Taps of one axis of a kernel: [begin, end). The one in the middle is always among them.
struct DepthwiseAtrousTaps {
  int64_t begin, end;
};

// Those that fall on an axis of `size` cells from the cell `at`, which lies on it.
inline DepthwiseAtrousTaps DepthwiseAtrousTapsFrom(int64_t at, int64_t size,
                                                   const DepthwiseAtrousBranch& branch) {
  const int64_t before = at / branch.dilation_rate;
  const int64_t behind = (size - 1 - at) / branch.dilation_rate;
  return {std::max<int64_t>(branch.Radius() - before, 0),
          std::min(branch.Radius() + behind + 1, branch.kernel_size)};
}

// Cells next to one another from which the same taps fall on the axis.
struct DepthwiseAtrousRun {
  int64_t begin, end;
  DepthwiseAtrousTaps taps;
};

inline std::vector<DepthwiseAtrousRun> DepthwiseAtrousRuns(int64_t size,
                                                           const DepthwiseAtrousBranch& branch) {
  std::vector<DepthwiseAtrousRun> runs;
  for (int64_t at = 0; at < size; ++at) {
    const DepthwiseAtrousTaps taps = DepthwiseAtrousTapsFrom(at, size, branch);
    if (runs.empty() || runs.back().taps.begin != taps.begin || runs.back().taps.end != taps.end) {
      runs.push_back({at, at, taps});
    }
    ++runs.back().end;
  }
  return runs;
}

using DepthwiseAtrousRunsOfBranches = std::vector<std::vector<DepthwiseAtrousRun>>;

inline DepthwiseAtrousRunsOfBranches DepthwiseAtrousRunsOf(
    const DepthwiseAtrousParameters& parameters) {
  DepthwiseAtrousRunsOfBranches runs;
  for (int branch = 0; branch < parameters.num_branches; ++branch) {
    runs.push_back(DepthwiseAtrousRuns(parameters.width, parameters.branches[branch]));
  }
  return runs;
}

// How far from a cell the farthest row lies that a branch reads on an image so high.
inline int64_t DepthwiseAtrousReach(int64_t height, const DepthwiseAtrousBranch& branch) {
  return std::min(branch.Radius(), (height - 1) / branch.dilation_rate) * branch.dilation_rate;
}

// That of all branches.
inline int64_t DepthwiseAtrousReach(const DepthwiseAtrousParameters& parameters) {
  int64_t reach = 0;
  for (int branch = 0; branch < parameters.num_branches; ++branch) {
    reach = std::max(reach, DepthwiseAtrousReach(parameters.height, parameters.branches[branch]));
  }
  return reach;
}

// The rows that are kept while rows up to `reach` away are read.
inline int64_t DepthwiseAtrousRingRows(int64_t height, int64_t reach) {
  return std::min(2 * reach + 1, height);
}

// Those of all branches, where each keeps its own.
inline int64_t DepthwiseAtrousKeptRows(const DepthwiseAtrousParameters& parameters) {
  int64_t rows = 0;
  for (int branch = 0; branch < parameters.num_branches; ++branch) {
    rows += DepthwiseAtrousRingRows(
        parameters.height, DepthwiseAtrousReach(parameters.height, parameters.branches[branch]));
  }
  return rows;
}

// A unit of work is a band of rows of some images, for a block of channels. The cut depends on the
// sizes and the instruction set alone.
struct DepthwiseAtrousPlan {
  int64_t block_channels, blocks;
  int64_t band_rows, bands;
  int64_t group_images, groups;

  // What is summed over the images is summed in so many parts.
  int64_t Parts() const { return groups * bands; }
  int64_t Units() const { return Parts() * blocks; }
};

inline int64_t DivideUp(int64_t number, int64_t by) { return (number + by - 1) / by; }

// A thread keeps `kept_rows` rows of a block, which has one cache line of every pixel or more. They
// fill a second-level cache and a part of the third: that costs less than the shorter reads of a
// pixel's channels that less would leave. The image must not be empty.
template <typename T>
DepthwiseAtrousPlan PlanDepthwiseAtrous(const DepthwiseAtrousParameters& parameters,
                                        int64_t kept_rows) {
  constexpr int64_t kCacheBytes = 1280 * 1024;
  constexpr int64_t kFewChannels = 64 / sizeof(T), kMostChannels = 4 * kFewChannels;
  constexpr int64_t kUnits = 16, kFewestRows = 16;
  const int64_t few_bytes =
      kept_rows * parameters.width * kFewChannels * static_cast<int64_t>(sizeof(AccumulatorOf<T>));
  DepthwiseAtrousPlan plan;
  plan.block_channels =
      std::clamp(kCacheBytes / few_bytes * kFewChannels, kFewChannels, kMostChannels);
  plan.blocks = DivideUp(parameters.channels, plan.block_channels);
  plan.group_images =
      DivideUp(parameters.images, std::min(DivideUp(kUnits, plan.blocks), parameters.images));
  plan.groups = DivideUp(parameters.images, plan.group_images);
  const int64_t bands = std::clamp<int64_t>(kUnits / (plan.groups * plan.blocks), 1,
                                            DivideUp(parameters.height, kFewestRows));
  plan.band_rows = DivideUp(parameters.height, bands);
  plan.bands = DivideUp(parameters.height, plan.band_rows);
  return plan;
}

struct DepthwiseAtrousUnit {
  int64_t part;
  int64_t first_image, end_image;
  int64_t first_row, end_row;
  int64_t first_channel, channels;
};

inline DepthwiseAtrousUnit UnitOf(const DepthwiseAtrousPlan& plan,
                                  const DepthwiseAtrousParameters& parameters, int64_t index) {
  // Blocks next to one another, which share pages of memory, are worked on after one another.
  const int64_t part = index / plan.blocks;
  const int64_t first_image = part / plan.bands * plan.group_images;
  const int64_t first_row = part % plan.bands * plan.band_rows;
  const int64_t first_channel = index % plan.blocks * plan.block_channels;
  return {part,
          first_image,
          std::min(first_image + plan.group_images, parameters.images),
          first_row,
          std::min(first_row + plan.band_rows, parameters.height),
          first_channel,
          std::min(plan.block_channels, parameters.channels - first_channel)};
}

// Whether a result is larger than the caches, and aligned so that it can be stored past them.
template <typename T>
bool DepthwiseAtrousStreams(const T* result, int64_t channels, int64_t pixels) {
  constexpr int64_t kCacheBytes = int64_t{16} << 20, kLine = 64;
  const int64_t pixel_bytes = channels * static_cast<int64_t>(sizeof(T));
  return pixel_bytes * pixels >= kCacheBytes && pixel_bytes % kLine == 0 &&
         reinterpret_cast<uintptr_t>(result) % kLine == 0;
}

// Memory at the border of a cache line, holding anything.
template <typename F>
class AlignedArray {
 public:
  explicit AlignedArray(int64_t size)
      : memory_(static_cast<F*>(::operator new[](size * sizeof(F), kAlignment))) {}

  F* data() const { return memory_.get(); }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(F* memory) const { ::operator delete[](memory, kAlignment); }
  };
  std::unique_ptr<F, Free> memory_;
};

}  // namespace kvision
