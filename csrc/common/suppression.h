// Greedy suppression of one set of boxes: the rule, bit for bit the same on CPU and GPU, and the
// CPU's way of running it.
//
// - A box is a candidate if its score is greater than the score threshold. NaN never is; -inf never
// is.
// - Candidates are visited by descending score, equal scores by ascending index.
// - A visited box is kept unless its IoU with a box already kept is greater than the IoU threshold.
// - IoU is inter / (area_i + area_j - inter), every operation rounded to float. A box without a
// positive finite area (an empty or reversed side, a
//   NaN or infinite corner, an area that overflows) has IoU 0 with every box: it neither suppresses
//   nor is suppressed.
//
// The threshold is compared as the float it is. Callers that have a double round it down: float
// IoUs then exceed both or neither.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "common/half.h"
#include "common/host_device.h"

namespace kvision {

struct Box {
  float x1, y1, x2, y2;
};

// A product that is never fused with a sum: a fused one is rounded once instead of twice, and
// decisions at the threshold change.
KVISION_HOST_DEVICE inline float Product(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}

// The area, infinite unless it is positive.
KVISION_HOST_DEVICE inline float SuppressionArea(const Box& box) {
  const float area = Product(box.x2 - box.x1, box.y2 - box.y1);
  return area > 0.0f ? area : BitCast<float>(0x7f800000u);
}

// Whether the box, of this SuppressionArea, has an IoU other than 0 with any. A box that is
// reversed both ways has a positive area and yet intersects nothing.
inline bool CanOverlap(const Box& box, float area) {
  return box.x2 > box.x1 && area < BitCast<float>(0x7f800000u);
}

KVISION_HOST_DEVICE inline float Intersection(const Box& a, const Box& b) {
  const float width = (a.x2 < b.x2 ? a.x2 : b.x2) - (a.x1 > b.x1 ? a.x1 : b.x1);
  const float height = (a.y2 < b.y2 ? a.y2 : b.y2) - (a.y1 > b.y1 ? a.y1 : b.y1);
  return width > 0.0f && height > 0.0f ? Product(width, height) : 0.0f;
}

KVISION_HOST_DEVICE inline bool Overlap(const Box& a, float area_a, const Box& b, float area_b,
                                        float iou_threshold) {
  const float inter = Intersection(a, b);
  return inter / (area_a + area_b - inter) > iou_threshold;
}

// What no candidate's ScoreKey is: it sorts last.
constexpr uint32_t kNoCandidate = 0xffffffffu;

// Candidates' scores as integers that ascend as the scores descend; +0 and -0 are equal.
KVISION_HOST_DEVICE inline uint32_t ScoreKey(float score, float score_threshold) {
  const uint32_t bits = BitCast<uint32_t>(score);
  const uint32_t sign = bits >> 31;
  uint32_t key = bits ^ ((sign - 1) & 0x7fffffffu);
  key -= bits == 0x80000000u;
  // A mask, for a branch would be mispredicted half the time.
  return key | -static_cast<uint32_t>(!(score > score_threshold));
}

struct SuppressionRule {
  float iou_threshold;
  float score_threshold;
  int64_t max_kept;
};

// One set of `size` boxes in strided memory: box i is the four floats at boxes + i * box_stride,
// its score is scores[i * score_stride].
struct ScoredBoxes {
  const float* boxes;
  int64_t box_stride;
  const float* scores;
  int64_t score_stride;
  int64_t size;

  Box BoxAt(int64_t index) const {
    const float* box = boxes + index * box_stride;
    return Box{box[0], box[1], box[2], box[3]};
  }
};

class KeptBoxes;

// Runs the rule on one set after another and keeps its memory between them: O(size), no matrix of
// IoUs. Time is that of a sort where boxes spread, for a candidate is compared with the boxes kept
// near it; at worst every candidate is compared with every kept box.
class Suppressor {
 public:
  Suppressor();
  ~Suppressor();

  // Writes the indices of the boxes kept, by descending score, to `kept`, which has room for
  // min(size, max_kept). Returns their number.
  int64_t Run(const ScoredBoxes& set, const SuppressionRule& rule, int32_t* kept);

 private:
  std::vector<uint64_t> candidates_, buffer_;  // score key << 32 | index
  std::unique_ptr<KeptBoxes> kept_;
};

}  // namespace kvision
