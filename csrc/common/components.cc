// Strips of rows by themselves, then strips with those above them, then numbers for the sets.
#include "common/components.h"

#include <algorithm>
#include <cstring>

#include "common/isa.h"

#define KVISION_ISA_FILE "common/components.inc"
#include "common/foreach_isa.h"

namespace kvision {
namespace {

constexpr int64_t kStrip = 32;  // rows

struct Loops {
  decltype(&baseline::CountRuns) count;
  decltype(&baseline::JoinRows) join;
  decltype(&baseline::WriteLabels) write;
};

Loops LoopsForThisProcessor() {
  switch (CurrentIsa()) {
#ifdef __x86_64__
    case Isa::kAvx512:
      return {&avx512::CountRuns, &avx512::JoinRows, &avx512::WriteLabels};
    case Isa::kAvx2:
      return {&avx2::CountRuns, &avx2::JoinRows, &avx2::WriteLabels};
#endif
    default:
      return {&baseline::CountRuns, &baseline::JoinRows, &baseline::WriteLabels};
  }
}

}  // namespace

Components::Components(const BitMasks& masks, int64_t height, int64_t connectivity,
                       ParallelFor parallel_for)
    : masks_(masks), height_(height), first_run_(masks.rows + 1) {
  const Loops loops = LoopsForThisProcessor();
  const int64_t rows = masks.rows, words = masks.words;
  const int64_t strips = (rows + kStrip - 1) / kStrip;
  parallel_for(rows, 2 * words, [&](int64_t begin, int64_t end) {
    for (int64_t y = begin; y < end; ++y) first_run_[y + 1] = loops.count(masks[y], words);
  });
  for (int64_t y = 0; y < rows; ++y) first_run_[y + 1] += first_run_[y];
  labels_.reset(new int32_t[first_run_[rows]]);

  // Runs are numbered in raster order within their image, and a set is called by its first.
  const auto runs_of_image = [&](int64_t y) { return labels_.get() + first_run_[y - y % height]; };
  const auto number = [&](int64_t y) {
    return static_cast<int32_t>(first_run_[y] - first_run_[y - y % height]);
  };
  const auto join = [&](int64_t y) {
    if (y % height == 0) return;
    loops.join(masks[y - 1], masks[y], words, connectivity == 8, number(y - 1), number(y),
               runs_of_image(y));
  };
  parallel_for(strips, kStrip * 16 * words, [&](int64_t begin, int64_t end) {
    for (int64_t strip = begin; strip < end; ++strip) {
      const int64_t top = strip * kStrip, bottom = std::min(top + kStrip, rows);
      for (int64_t y = top; y < bottom; ++y) {
        for (int64_t run = first_run_[y]; run < first_run_[y + 1]; ++run) {
          labels_[run] = static_cast<int32_t>(run - first_run_[y - y % height]);
        }
        if (y > top) join(y);
      }
    }
  });
  for (int64_t strip = 1; strip < strips; ++strip) join(strip * kStrip);

  const int64_t images = height == 0 ? 0 : rows / height;
  counts_.resize(images);
  parallel_for(images, height * words, [&](int64_t begin, int64_t end) {
    for (int64_t image = begin; image < end; ++image) {
      int32_t* const runs = labels_.get() + first_run_[image * height];
      const int64_t size = first_run_[(image + 1) * height] - first_run_[image * height];
      int32_t count = 0;
      for (int64_t run = 0; run < size; ++run) {
        runs[run] = runs[run] == run ? ++count : runs[runs[run]];
      }
      counts_[image] = count;
    }
  });
}

std::vector<int32_t> Components::Areas(int64_t image) const {
  std::vector<int32_t> areas(counts_[image] + 1);
  for (int64_t y = image * height_; y < (image + 1) * height_; ++y) {
    ForEachRunOf(y, [&](int64_t begin, int64_t end, int32_t label) {
      areas[label] += static_cast<int32_t>(end - begin);
    });
  }
  return areas;
}

void Components::WriteRow(int64_t row, int32_t* output) const {
  LoopsForThisProcessor().write(masks_[row], masks_.width, labels_.get() + first_run_[row], output);
}

}  // namespace kvision
