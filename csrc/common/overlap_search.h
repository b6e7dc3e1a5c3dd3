// Finds, of one set of boxes, all that overlap one of them, without looking at every pair.
//
// Boxes are sorted by label and along a Z-order curve through their centres (Morton, 1966), so that
// neighbours in memory are neighbours in the plane, and cut into leaves of 32. A search tests the
// bounds of 32 leaves at a time, then the boxes of the leaves that are hit. Where all boxes overlap
// it looks at all of them, as it has to.
#pragma once

#include <cstdint>
#include <vector>

#include "common/suppression.h"

namespace kvision {

// 32 boxes, an array a coordinate. A new one is empty: its boxes overlap nothing.
struct BoxBlock {
  static constexpr int64_t kSize = 32;
  float x1[kSize], y1[kSize], x2[kSize], y2[kSize];

  BoxBlock();
  Box At(int64_t i) const { return Box{x1[i], y1[i], x2[i], y2[i]}; }
  void Set(int64_t i, const Box& box);
  void Include(int64_t i, const Box& box);  // box i becomes the bounds of itself and `box`
};

struct BoxLeaf : BoxBlock {
  float areas[kSize];
  int32_t labels[kSize];
  int32_t indices[kSize];
};

class OverlapSearch {
 public:
  struct Overlap {
    int32_t index;
    float iou;  // positive
  };

  void Build(const std::vector<Box>& boxes, const std::vector<int32_t>& labels);

  // Writes those boxes of the same label whose IoU with box `index` is positive, itself among them,
  // to `found`, which has room for all boxes. Their order is the same on every machine. Returns
  // their number.
  int64_t Find(int64_t index, Overlap* found) const;

  // Box `index` is not found any more, and finds nothing.
  void Remove(int64_t index);

 private:
  struct LeafRange {
    int64_t begin, end;
  };

  std::vector<BoxLeaf> leaves_;
  std::vector<BoxBlock> bounds_;        // of the leaves
  std::vector<int64_t> places_;         // of the boxes: 32 * leaf + i, or -1
  std::vector<LeafRange> leaf_ranges_;  // of the boxes' labels
  std::vector<int32_t> leaf_range_of_;  // the boxes
};

}  // namespace kvision
