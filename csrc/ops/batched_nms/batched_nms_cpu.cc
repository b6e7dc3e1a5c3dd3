#include <algorithm>
#include <vector>

#include "common/suppression.h"
#include "ops/batched_nms/batched_nms.h"

namespace kvision {
namespace {

// Rough prices in CPU cycles, for splitting the work.
constexpr int64_t kCostPerBox = 64;
constexpr int64_t kCostPerKept = 32;

// The boxes kept of every (image, class): a row of `limit` indices each, and how many are filled.
struct KeptOfClasses {
  int64_t limit;
  std::vector<int32_t> indices;
  std::vector<int32_t> counts;
};

// The detections of one image: the best of what its classes kept.
void Merge(const float* scores, const BatchedNmsShape& shape, const KeptOfClasses& kept,
           int64_t image, int64_t size, std::vector<uint64_t>& found, int32_t* indices,
           int32_t* labels, int32_t* num_detections) {
  const int64_t num_classes = shape.num_classes;
  found.clear();
  for (int64_t label = 0; label < num_classes; ++label) {
    const int64_t item = image * num_classes + label;
    for (int64_t k = 0; k < kept.counts[item]; ++k) {
      const int64_t pair = kept.indices[item * kept.limit + k] * num_classes + label;
      const uint64_t key = ScoreKey(scores[image * shape.num_boxes * num_classes + pair],
                                    BitCast<float>(0xff800000u));
      found.push_back(key << 32 | static_cast<uint64_t>(pair));
    }
  }
  const int64_t count = std::min<int64_t>(size, found.size());
  std::partial_sort(found.begin(), found.begin() + count, found.end());
  for (int64_t k = 0; k < count; ++k) {
    const auto pair = static_cast<uint32_t>(found[k]);
    indices[k] = static_cast<int32_t>(pair / num_classes);
    labels[k] = static_cast<int32_t>(pair % num_classes);
  }
  std::fill(indices + count, indices + size, -1);
  std::fill(labels + count, labels + size, -1);
  *num_detections = static_cast<int32_t>(count);
}

}  // namespace

void BatchedNmsCpu(const float* boxes, const float* scores, const BatchedNmsShape& shape,
                   const BatchedNmsAttributes& attributes, int32_t* indices, int32_t* labels,
                   int32_t* num_detections, ParallelFor parallel_for) {
  const int64_t num_boxes = shape.num_boxes;
  const int64_t num_classes = shape.num_classes;
  const int64_t boxes_each = shape.shared_boxes ? 1 : num_classes;
  const int64_t size = attributes.max_output_size;
  const int64_t limit = std::min({size, attributes.max_output_size_per_class, num_boxes});
  const int64_t items = shape.batch * num_classes;
  KeptOfClasses kept{limit, std::vector<int32_t>(items * limit), std::vector<int32_t>(items)};

  parallel_for(items, kCostPerBox * num_boxes, [&](int64_t begin, int64_t end) {
    Suppressor suppressor;
    for (int64_t item = begin; item < end; ++item) {
      const int64_t first_box = item / num_classes * num_boxes;
      const int64_t label = item % num_classes;
      const float* item_boxes =
          boxes + (first_box * boxes_each + (shape.shared_boxes ? 0 : label)) * 4;
      const float* item_scores = scores + first_box * num_classes + label;
      kept.counts[item] = static_cast<int32_t>(
          suppressor.Run({item_boxes, boxes_each * 4, item_scores, num_classes, num_boxes},
                         {attributes.iou_threshold, attributes.score_threshold, limit},
                         kept.indices.data() + item * limit));
    }
  });

  parallel_for(shape.batch, kCostPerKept * num_classes * limit, [&](int64_t begin, int64_t end) {
    std::vector<uint64_t> found;
    for (int64_t image = begin; image < end; ++image) {
      Merge(scores, shape, kept, image, size, found, indices + image * size, labels + image * size,
            num_detections + image);
    }
  });
}

}  // namespace kvision
