// What soft_nms and matrix_nms have in common: boxes overlapped by better ones are not dropped, but
// lose score.
//
// - A box is a candidate if its score is greater than the score threshold. NaN never is; -inf never
//   is.
// - Boxes of different labels have IoU 0. Apart from that, IoU is that of common/suppression.h: a
//   box without a positive finite area has IoU 0 with every box.
// - A positive score is multiplied by a factor in [0, 1]. Other scores stay as they are, so that
//   decay never raises a score. An infinite score times 0 is NaN: no candidate any more.
#pragma once

#include <cmath>

#include "common/suppression.h"

namespace kvision {

enum class DecayMethod { kLinear, kGaussian };

// How many boxes are returned, padding included; -1 stands for no maximum.
inline int64_t SelectionSize(int64_t num_boxes, int64_t max_output_size) {
  return max_output_size < 0 ? num_boxes : max_output_size;
}

KVISION_HOST_DEVICE inline float DecayedScore(float score, float factor) {
  return score > 0.0f ? Product(score, factor) : score;
}

// 0 also where NaN would come of infinite boxes.
KVISION_HOST_DEVICE inline float PositiveIou(const Box& a, float area_a, const Box& b,
                                             float area_b) {
  const float inter = Intersection(a, b);
  const float iou = inter / (area_a + area_b - inter);
  return iou > 0.0f ? iou : 0.0f;
}

}  // namespace kvision
