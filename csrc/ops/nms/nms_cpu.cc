#include <algorithm>

#include "common/suppression.h"
#include "ops/nms/nms.h"

namespace kvision {

void NmsCpu(const float* boxes, const float* scores, int64_t num_boxes,
            const NmsAttributes& attributes, int32_t* indices, int32_t* count) {
  const int64_t size = NmsOutputSize(num_boxes, attributes.max_output_size);
  Suppressor suppressor;
  const int64_t num_kept =
      suppressor.Run({boxes, 4, scores, 1, num_boxes},
                     {attributes.iou_threshold, attributes.score_threshold, size}, indices);
  std::fill(indices + num_kept, indices + size, -1);
  *count = static_cast<int32_t>(num_kept);
}

}  // namespace kvision
