#include "common/kept_boxes.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace kvision {
namespace {

// With fewer, comparing all of them is faster than laying a grid.
constexpr int64_t kFewBoxes = 256;
// Boxes looked at to lay the grid.
constexpr size_t kSample = 64;

// What the boxes looked at say about one axis.
class Sample {
 public:
  void Add(float from, float to) {
    centres_[size_] = 0.5f * from + 0.5f * to;
    sides_[size_++] = to - from;
  }
  // Neither is moved far by a box far away or very large.
  float Quantile(double share) { return Nth(centres_, share); }
  float MedianSide() { return Nth(sides_, 0.5); }

 private:
  float Nth(float* values, double share) {
    float* nth = values + static_cast<size_t>(share * static_cast<double>(size_ - 1));
    std::nth_element(values, nth, values + size_);
    return *nth;
  }

  size_t size_ = 0;
  float centres_[kSample], sides_[kSample];
};

}  // namespace

const KeptBlock KeptBoxes::kEmpty = [] {
  KeptBlock block;
  const float infinity = std::numeric_limits<float>::infinity();
  for (int i = 0; i < KeptBlock::kSize; ++i) {
    block.Put(i, Box{infinity, infinity, infinity, infinity}, infinity);
  }
  return block;
}();

void KeptBoxes::Reset(const ScoredBoxes& set, const std::vector<uint64_t>& candidates,
                      int64_t max_kept, float iou_threshold) {
  // A little less than the threshold, for IoUs are rounded.
  cut_ = std::min(iou_threshold, 0.5f) * (1.0f - 0x1p-12f);
  cells_.clear();
  blocks_.clear();
  newer_.clear();
  everywhere_.clear();
  num_everywhere_ = 0;
  origin_ = cells_per_unit_ = last_ = Floats{};
  columns_ = 1;
  if (max_kept < kFewBoxes) return;

  Sample x, y;
  size_t sampled = 0;
  for (size_t i = 0; i < kSample; ++i) {
    const Box box = set.BoxAt(static_cast<int32_t>(candidates[i * candidates.size() / kSample]));
    if (!CanOverlap(box, SuppressionArea(box))) continue;
    x.Add(box.x1, box.x2);
    y.Add(box.y1, box.y2);
    ++sampled;
  }
  if (sampled < kSample / 4) return;

  // Cells as large as boxes usually are, and enough boxes to each to fill a block or so.
  constexpr double kOutliers = 0.03;
  const float left = x.Quantile(kOutliers), right = x.Quantile(1 - kOutliers);
  const float top = y.Quantile(kOutliers), bottom = y.Quantile(1 - kOutliers);
  const float most = std::min(static_cast<float>(max_kept) / 8.0f, 0x1p20f);
  float columns = (right - left) / x.MedianSide();
  float rows = (bottom - top) / y.MedianSide();
  columns = columns < most ? std::max(columns, 1.0f) : most;
  rows = rows < most ? std::max(rows, 1.0f) : most;
  const float shrink = std::sqrt(std::min(1.0f, most / (columns * rows)));
  columns = std::max(1.0f, std::floor(columns * shrink));
  rows = std::max(1.0f, std::floor(rows * shrink));
  if (columns * rows < 2.0f) return;
  const float per_x = columns > 1.0f ? columns / (right - left) : 0.0f;
  const float per_y = rows > 1.0f ? rows / (bottom - top) : 0.0f;
  origin_ = Floats{left, top, left, top};
  cells_per_unit_ = Floats{per_x, per_y, per_x, per_y};
  last_ = Floats{columns, rows, columns, rows} - 1.0f;
  columns_ = static_cast<int32_t>(columns);
  cells_.assign(static_cast<size_t>(columns) * static_cast<size_t>(rows), Cell{});
  blocks_.reserve(2 * cells_.size());
  newer_.reserve(2 * cells_.size());
}

}  // namespace kvision
