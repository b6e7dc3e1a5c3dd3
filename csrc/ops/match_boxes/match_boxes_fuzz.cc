// MatchBoxesCpu against the matrix of IoUs and the rule in its plainest form, for several numbers
// of threads.

#include <algorithm>
#include <cmath>
#include <vector>

#include "common/threads.h"
#include "fuzz/input.h"
#include "ops/match_boxes/match_boxes.h"

using kvision::MatchBoxesAttributes;
using kvision::MatchBoxesShape;
using namespace kvision::fuzz;

namespace {

float Side(float low, float high) { return high > low ? high - low : 0.0f; }

float Area(const float* box) { return Side(box[0], box[2]) * Side(box[1], box[3]); }

float Intersection(const float* a, const float* b) {
  for (int corner = 0; corner < 4; ++corner) {
    if (std::isnan(a[corner]) || std::isnan(b[corner])) return 0.0f;
  }
  const float width = (a[2] < b[2] ? a[2] : b[2]) - (a[0] > b[0] ? a[0] : b[0]);
  const float height = (a[3] < b[3] ? a[3] : b[3]) - (a[1] > b[1] ? a[1] : b[1]);
  return width > 0 && height > 0 ? width * height : 0.0f;
}

float IoU(const float* box, const float* candidate) {
  const float intersection = Intersection(box, candidate);
  const float iou = intersection / (Area(box) + Area(candidate) - intersection);
  return iou > 0 ? iou : 0.0f;
}

// One image.
void CheckImage(const MatchBoxesShape& shape, const MatchBoxesAttributes& attributes,
                const float* boxes, const bool* valid, const bool* crowd, const float* candidates,
                const int32_t* matches, const int32_t* status) {
  std::vector<float> highest(shape.num_boxes, 0.0f);
  for (int64_t m = 0; m < shape.num_boxes; ++m) {
    for (int64_t n = 0; n < shape.num_candidates; ++n) {
      highest[m] = std::max(highest[m], IoU(boxes + 4 * m, candidates + 4 * n));
    }
  }
  for (int64_t n = 0; n < shape.num_candidates; ++n) {
    const float* candidate = candidates + 4 * n;
    float best = -1;
    int32_t match = 0;
    bool in_crowd = false, low_quality = false;
    for (int64_t m = 0; m < shape.num_boxes; ++m) {
      in_crowd |= crowd[m] && Intersection(boxes + 4 * m, candidate) >
                                  attributes.crowd_overlap * Area(candidate);
      if (!valid[m]) continue;
      const float iou = IoU(boxes + 4 * m, candidate);
      if (iou > best) {
        best = iou;
        match = static_cast<int32_t>(m);
      }
      low_quality |= attributes.allow_low_quality && iou > 0 && iou == highest[m];
    }
    const bool negative = best < attributes.negative_threshold;
    const int32_t wanted = best >= attributes.positive_threshold || low_quality ? kvision::kPositive
                           : negative && !in_crowd                              ? kvision::kNegative
                                                                                : kvision::kIgnored;
    Require(matches[n] == match, "a candidate's match");
    Require(status[n] == wanted, "a candidate's status");
  }
}

Buffer<bool> DrawBools(Input& input, int64_t size) {
  Buffer<bool> values(input, size);
  const uint32_t one_in = input.OneOf({1u, 2u, 5u, 1u << 31});
  for (bool& value : values) value = input.OneIn(one_in);
  return values;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input input(data, size);
  const MatchBoxesShape shape = {input.Size(3, 5), input.Size(60, 900), input.Size(6, 40),
                                 input.OneIn(2)};
  MatchBoxesAttributes attributes;
  attributes.negative_threshold = DrawScoreThreshold(input);
  attributes.positive_threshold = input.OneIn(2) ? attributes.negative_threshold : 0.7f;
  attributes.crowd_overlap = input.OneOf({0.7f, 0.0f, -1.0f, 1.0f, input.Special<float>()});
  attributes.allow_low_quality = input.OneIn(2);
  if (!kvision::CheckMatchBoxes(attributes).empty()) return 0;
  const double extent = DrawExtent(input);
  const int64_t sets = shape.shared_candidates ? 1 : shape.batch;
  const auto boxes = DrawBoxes<float>(input, shape.batch * shape.num_boxes, extent);
  const auto candidates = DrawBoxes<float>(input, sets * shape.num_candidates, extent);
  const auto valid = DrawBools(input, shape.batch * shape.num_boxes);
  const auto crowd = DrawBools(input, shape.batch * shape.num_boxes);
  // Some candidates are boxes, so that IoUs are 1 and equal.
  for (int64_t i = 0; i < 4 * std::min(sets * shape.num_candidates, boxes.size() / 4); ++i) {
    if (i % 12 < 4) candidates[i] = boxes[i];
  }

  const int64_t total = shape.batch * shape.num_candidates;
  Buffer<int32_t> matches(input, total), status(input, total);
  kvision::MatchBoxesCpu(boxes.data(), valid.data(), crowd.data(), candidates.data(), shape,
                         attributes, matches.data(), status.data(), kvision::ThreadsFor(1));
  for (int64_t image = 0; image < shape.batch; ++image) {
    const int64_t first = image * shape.num_boxes, from = image * shape.num_candidates;
    CheckImage(shape, attributes, boxes.data() + 4 * first, valid.data() + first,
               crowd.data() + first, candidates.data() + (shape.shared_candidates ? 0 : 4 * from),
               matches.data() + from, status.data() + from);
  }
  Buffer<int32_t> again(input, total), status_again(input, total);
  kvision::MatchBoxesCpu(boxes.data(), valid.data(), crowd.data(), candidates.data(), shape,
                         attributes, again.data(), status_again.data(),
                         kvision::ThreadsFor(input.OneOf({2, 3, 7})));
  Require(matches.SameBits(again) && status.SameBits(status_again), "other bits with more threads");
  return 0;
}
