// Greedy suppression written from the words of common/suppression.h, to compare kernels with.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

namespace kvision::fuzz {

inline bool HasArea(const float* box) {
  const float area = (box[2] - box[0]) * (box[3] - box[1]);
  return box[0] < box[2] && box[1] < box[3] && area > 0 && std::isfinite(area);
}

inline float Iou(const float* a, const float* b) {
  if (!HasArea(a) || !HasArea(b)) return 0;
  const float area_a = (a[2] - a[0]) * (a[3] - a[1]);
  const float area_b = (b[2] - b[0]) * (b[3] - b[1]);
  const float width = std::min(a[2], b[2]) - std::max(a[0], b[0]);
  const float height = std::min(a[3], b[3]) - std::max(a[1], b[1]);
  if (width <= 0 || height <= 0) return 0;
  const float inter = width * height;
  return inter / (area_a + area_b - inter);
}

// The indices of the boxes kept, at most `limit`. Box i is at boxes + i * box_stride, its score at
// scores + i * score_stride.
inline std::vector<int32_t> GreedyNms(const float* boxes, int64_t box_stride, const float* scores,
                                      int64_t score_stride, int64_t number, float iou_threshold,
                                      float score_threshold, int64_t limit) {
  std::vector<int32_t> order(number);
  std::iota(order.begin(), order.end(), 0);
  const auto score = [&](int32_t box) { return scores[box * score_stride]; };
  const auto is_candidate = [&](int32_t box) { return score(box) > score_threshold; };
  order.erase(std::stable_partition(order.begin(), order.end(), is_candidate), order.end());
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return score(a) > score(b); });
  std::vector<int32_t> kept;
  for (const int32_t box : order) {
    if (static_cast<int64_t>(kept.size()) == limit) break;
    const bool suppressed = std::any_of(kept.begin(), kept.end(), [&](int32_t other) {
      return Iou(boxes + box * box_stride, boxes + other * box_stride) > iou_threshold;
    });
    if (!suppressed) kept.push_back(box);
  }
  return kept;
}

}  // namespace kvision::fuzz
