// SoftNmsCpu against the loop of its contract: select, then decay every other box.

#include <cmath>
#include <vector>

#include "fuzz/score_decay.h"
#include "ops/soft_nms/soft_nms.h"

using kvision::DecayMethod;
using kvision::SoftNmsAttributes;
using namespace kvision::fuzz;

namespace {

Selected SoftNms(const LabelledBoxes& set, const SoftNmsAttributes& attributes, int64_t limit) {
  std::vector<float> current(set.scores, set.scores + set.number);
  std::vector<bool> out(set.number);
  Selected selected;
  while (static_cast<int64_t>(selected.size()) < limit) {
    int64_t best = -1;
    for (int64_t i = 0; i < set.number; ++i) {
      const bool candidate = !out[i] && current[i] > attributes.score_threshold;
      if (candidate && (best < 0 || current[i] > current[best])) best = i;
    }
    if (best < 0) break;
    selected.push_back({static_cast<int32_t>(best), current[best]});
    out[best] = true;
    for (int64_t i = 0; i < set.number; ++i) {
      if (!(current[i] > 0)) continue;
      const float iou = set.IouOf(best, i);
      if (attributes.method == DecayMethod::kGaussian) {
        current[i] *= std::exp(-(iou * iou) / attributes.sigma);
      } else if (iou > attributes.iou_threshold) {
        current[i] *= 1 - iou;
      }
    }
  }
  return selected;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input input(data, size);
  const int64_t num_boxes = input.Size(80, 400);
  const SoftNmsAttributes attributes = {DrawDecayMethod(input), DrawSigma(input),
                                        DrawIouThreshold(input), DrawScoreThreshold(input),
                                        input.OneIn(2) ? -1 : 1 + input.Size(40, 500)};
  const auto boxes = DrawBoxes<float>(input, num_boxes, DrawExtent(input));
  const auto scores = DrawNumbers<float>(input, num_boxes, 1);
  const auto labels = DrawLabels(input, num_boxes);

  const int64_t room = kvision::SelectionSize(num_boxes, attributes.max_output_size);
  Buffer<int32_t> indices(input, room), count(input, 1);
  Buffer<float> decayed_scores(input, room);
  kvision::SoftNmsCpu(boxes.data(), scores.data(), labels.data(), num_boxes, attributes,
                      indices.data(), decayed_scores.data(), count.data());
  const LabelledBoxes set = {boxes.data(), scores.data(), labels.data(), num_boxes};
  RequireSelected(SoftNms(set, attributes, room), indices, decayed_scores, count[0]);
  return 0;
}
