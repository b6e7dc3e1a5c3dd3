// NmsCpu against greedy suppression written from its contract.

#include <algorithm>
#include <vector>

#include "fuzz/greedy.h"
#include "fuzz/input.h"
#include "ops/nms/nms.h"

using kvision::NmsAttributes;
using namespace kvision::fuzz;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input input(data, size);
  const int64_t num_boxes = input.OneIn(8) ? input.Between(0, 1500) : input.Size(80, 300);
  NmsAttributes attributes;
  attributes.iou_threshold = DrawIouThreshold(input);
  attributes.score_threshold = DrawScoreThreshold(input);
  attributes.max_output_size = input.OneIn(2) ? kvision::kNoMaximum : 1 + input.Size(40, 2000);
  const auto boxes = DrawBoxes<float>(input, num_boxes, DrawExtent(input));
  const auto scores = DrawNumbers<float>(input, num_boxes, 1);

  const int64_t room = kvision::NmsOutputSize(num_boxes, attributes.max_output_size);
  Buffer<int32_t> indices(input, room), count(input, 1);
  kvision::NmsCpu(boxes.data(), scores.data(), num_boxes, attributes, indices.data(), count.data());

  std::vector<int32_t> kept = GreedyNms(boxes.data(), 4, scores.data(), 1, num_boxes,
                                        attributes.iou_threshold, attributes.score_threshold, room);
  Require(count[0] == static_cast<int32_t>(kept.size()), "the number of boxes kept");
  kept.resize(room, -1);
  Require(std::equal(kept.begin(), kept.end(), indices.begin()), "the boxes kept");
  return 0;
}
