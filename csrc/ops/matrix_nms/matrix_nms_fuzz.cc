// MatrixNmsCpu against its contract written out, for several numbers of threads.

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "common/threads.h"
#include "fuzz/score_decay.h"
#include "ops/matrix_nms/matrix_nms.h"

using kvision::DecayMethod;
using kvision::MatrixNmsAttributes;
using namespace kvision::fuzz;

namespace {

Selected MatrixNms(const LabelledBoxes& set, const MatrixNmsAttributes& attributes, int64_t limit) {
  std::vector<int32_t> order;
  for (int32_t i = 0; i < set.number; ++i) {
    if (set.scores[i] > attributes.score_threshold) order.push_back(i);
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return set.scores[a] > set.scores[b]; });
  std::vector<float> greatest(set.number);
  Selected selected;
  for (size_t j = 0; j < order.size(); ++j) {
    float quotient = 1, exponent = 0;
    for (size_t i = 0; i < j; ++i) {
      const float iou = set.IouOf(order[i], order[j]);
      const float c = greatest[order[i]];
      greatest[order[j]] = std::max(greatest[order[j]], iou);
      if (c < 1) quotient = std::min(quotient, (1 - iou) / (1 - c));
      exponent = std::min(exponent, c * c - iou * iou);
    }
    const float decay = attributes.method == DecayMethod::kLinear
                            ? quotient
                            : std::exp(attributes.sigma * exponent);
    float score = set.scores[order[j]];
    if (score > 0) score *= decay;
    if (score > attributes.score_threshold) selected.push_back({order[j], score});
  }
  std::sort(selected.begin(), selected.end(), [](const auto& a, const auto& b) {
    return a.second > b.second || (a.second == b.second && a.first < b.first);
  });
  selected.resize(std::min<int64_t>(limit, selected.size()));
  return selected;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input input(data, size);
  const int64_t num_boxes = input.Size(80, 400);
  const MatrixNmsAttributes attributes = {DrawDecayMethod(input), DrawSigma(input),
                                          DrawScoreThreshold(input),
                                          input.OneIn(2) ? -1 : 1 + input.Size(40, 500)};
  const auto boxes = DrawBoxes<float>(input, num_boxes, DrawExtent(input));
  const auto scores = DrawNumbers<float>(input, num_boxes, 1);
  const auto labels = DrawLabels(input, num_boxes);

  const int64_t room = kvision::SelectionSize(num_boxes, attributes.max_output_size);
  const LabelledBoxes set = {boxes.data(), scores.data(), labels.data(), num_boxes};
  const Selected wanted = MatrixNms(set, attributes, room);
  for (const int num_threads : {1, 3}) {
    Buffer<int32_t> indices(input, room), count(input, 1);
    Buffer<float> decayed_scores(input, room);
    kvision::MatrixNmsCpu(boxes.data(), scores.data(), labels.data(), num_boxes, attributes,
                          indices.data(), decayed_scores.data(), count.data(),
                          kvision::ThreadsFor(num_threads));
    RequireSelected(wanted, indices, decayed_scores, count[0]);
  }
  return 0;
}
