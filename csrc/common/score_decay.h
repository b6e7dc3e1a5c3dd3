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
#include <string>

#include "common/shapes.h"
#include "common/suppression.h"

namespace kvision {

enum class DecayMethod { kLinear, kGaussian };

// The method of this name. Returns what is wrong with the name, or nothing.
inline std::string ParseDecayMethod(const char* op, const std::string& name, DecayMethod* method) {
  *method = name == "linear" ? DecayMethod::kLinear : DecayMethod::kGaussian;
  if (name == "linear" || name == "gaussian") return {};
  return Complaint(op, "`method` must be \"linear\" or \"gaussian\". Received: \"", name, "\".");
}

// What is wrong with attributes that both ops have, or nothing.
inline std::string CheckDecay(const char* op, float sigma, int64_t max_output_size) {
  if (!(sigma > 0.0f && std::isfinite(sigma))) {
    return Complaint(op, "`sigma` must be positive and finite. Received: ", sigma, ".");
  }
  if (max_output_size != -1 && (max_output_size < 1 || max_output_size > INT32_MAX)) {
    return Complaint(
        op, "`max_output_size` must be positive, or -1 for none. Received: ", max_output_size, ".");
  }
  return {};
}

// Indices and count are int32.
inline std::string CheckNumBoxes(const char* op, int64_t num_boxes) {
  if (num_boxes <= INT32_MAX) return {};
  return Complaint(op, "at most 2^31 - 1 boxes. Received: ", num_boxes, ".");
}

// How many boxes are returned, padding included.
inline int64_t SelectionSize(int64_t num_boxes, int64_t max_output_size) {
  return max_output_size == -1 ? num_boxes : max_output_size;
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
