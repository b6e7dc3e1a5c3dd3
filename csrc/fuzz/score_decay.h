// Draws of what soft_nms and matrix_nms have in common, and how their results are compared.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "common/score_decay.h"
#include "fuzz/greedy.h"
#include "fuzz/input.h"

namespace kvision::fuzz {

inline DecayMethod DrawDecayMethod(Input& input) {
  return input.OneIn(2) ? DecayMethod::kLinear : DecayMethod::kGaussian;
}

inline float DrawSigma(Input& input) {
  using Limits = std::numeric_limits<float>;
  const auto any = static_cast<float>(input.Unit()) + Limits::min();
  return input.OneOf({0.5f, 2.0f, any, any, 1e-3f, Limits::denorm_min(), Limits::max()});
}

inline Buffer<int32_t> DrawLabels(Input& input, int64_t number) {
  Buffer<int32_t> labels(input, number);
  const int64_t kinds = input.OneOf({1, 1, 3, 40});
  const int64_t step = input.OneOf({1, -1, 1 << 24});
  for (int32_t& label : labels) {
    label = static_cast<int32_t>(step * (input.Between(0, kinds - 1) - kinds / 2));
  }
  return labels;
}

// One set of boxes with labels.
struct LabelledBoxes {
  const float* boxes;
  const float* scores;
  const int32_t* labels;
  int64_t number;

  float IouOf(int64_t a, int64_t b) const {
    return labels[a] == labels[b] ? Iou(boxes + a * 4, boxes + b * 4) : 0.0f;
  }
};

using Selected = std::vector<std::pair<int32_t, float>>;

inline void RequireSelected(const Selected& wanted, const Buffer<int32_t>& indices,
                            const Buffer<float>& scores, int32_t count) {
  Require(count == static_cast<int32_t>(wanted.size()), "the number of boxes selected");
  for (int64_t k = 0; k < indices.size(); ++k) {
    const auto [index, score] = k < count ? wanted[k] : std::make_pair(-1, 0.0f);
    Require(indices[k] == index, "the boxes selected");
    Require(BitCast<uint32_t>(scores[k]) == BitCast<uint32_t>(score), "their scores");
  }
}

}  // namespace kvision::fuzz
