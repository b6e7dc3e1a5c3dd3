// BatchedNmsCpu against greedy suppression of every class, written from its contract, for several
// numbers of threads.

#include <algorithm>
#include <tuple>
#include <vector>

#include "common/threads.h"
#include "fuzz/greedy.h"
#include "fuzz/input.h"
#include "ops/batched_nms/batched_nms.h"

using kvision::BatchedNmsAttributes;
using kvision::BatchedNmsShape;
using namespace kvision::fuzz;

namespace {

struct Detection {
  float score;
  int32_t box, label;

  bool operator<(const Detection& other) const {
    return std::make_tuple(-score, box, label) <
           std::make_tuple(-other.score, other.box, other.label);
  }
};

// All that the classes of one image keep, best first.
std::vector<Detection> Detections(const BatchedNmsShape& shape,
                                  const BatchedNmsAttributes& attributes, const float* boxes,
                                  const float* scores) {
  const int64_t boxes_each = shape.shared_boxes ? 1 : shape.num_classes;
  std::vector<Detection> found;
  for (int32_t label = 0; label < shape.num_classes; ++label) {
    for (const int32_t box :
         GreedyNms(boxes + (shape.shared_boxes ? 0 : label * 4), boxes_each * 4, scores + label,
                   shape.num_classes, shape.num_boxes, attributes.iou_threshold,
                   attributes.score_threshold, attributes.max_output_size_per_class)) {
      found.push_back({scores[box * shape.num_classes + label], box, label});
    }
  }
  std::sort(found.begin(), found.end());
  return found;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input input(data, size);
  const BatchedNmsShape shape = {input.Size(3, 5), input.Size(40, 400), input.Size(4, 20),
                                 input.OneIn(2)};
  BatchedNmsAttributes attributes;
  attributes.iou_threshold = DrawIouThreshold(input);
  attributes.score_threshold = DrawScoreThreshold(input);
  attributes.max_output_size = 1 + input.Size(60, 500);
  attributes.max_output_size_per_class = 1 + input.Size(60, 500);
  const int64_t box_sets = shape.batch * (shape.shared_boxes ? 1 : shape.num_classes);
  const auto boxes = DrawBoxes<float>(input, box_sets * shape.num_boxes, DrawExtent(input));
  const auto scores =
      DrawNumbers<float>(input, shape.batch * shape.num_boxes * shape.num_classes, 1);

  const int64_t room = attributes.max_output_size;
  for (const int threads : {1, input.OneOf({2, 3, 7})}) {
    Buffer<int32_t> indices(input, shape.batch * room), labels(input, shape.batch * room);
    Buffer<int32_t> counts(input, shape.batch);
    kvision::BatchedNmsCpu(boxes.data(), scores.data(), shape, attributes, indices.data(),
                           labels.data(), counts.data(), kvision::ThreadsFor(threads));
    for (int64_t image = 0; image < shape.batch; ++image) {
      std::vector<Detection> wanted =
          Detections(shape, attributes, boxes.data() + image * (boxes.size() / shape.batch),
                     scores.data() + image * shape.num_boxes * shape.num_classes);
      if (static_cast<int64_t>(wanted.size()) > room) wanted.resize(room);
      Require(counts[image] == static_cast<int32_t>(wanted.size()), "the number of detections");
      wanted.resize(room, Detection{0, -1, -1});
      for (int64_t k = 0; k < room; ++k) {
        Require(indices[image * room + k] == wanted[k].box, "a detection's box");
        Require(labels[image * room + k] == wanted[k].label, "a detection's class");
      }
    }
  }
  return 0;
}
