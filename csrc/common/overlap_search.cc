#include "common/overlap_search.h"

#include <algorithm>
#include <limits>

#include "common/isa.h"
#include "common/lazy_sort.h"

#define KVISION_ISA_FILE "common/overlap_search.inc"
#include "common/foreach_isa.h"

namespace kvision {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

auto* FindOverlapsForThisProcessor() {
#ifdef __x86_64__
  if (CurrentIsa() == Isa::kAvx512) return avx512::FindOverlaps;
  if (CurrentIsa() == Isa::kAvx2) return avx2::FindOverlaps;
#endif
  return baseline::FindOverlaps;
}

// Whether the box can overlap anything. Otherwise no search needs it.
bool HasArea(const Box& box) { return SuppressionArea(box) < kInfinity; }

// A range of coordinates in 2^16 steps.
struct Axis {
  double low = kInfinity, high = -kInfinity;

  void Include(double value) {
    low = std::min(low, value);
    high = std::max(high, value);
  }
  uint32_t Step(double value) const {
    return high > low ? static_cast<uint32_t>((value - low) / (high - low) * 65535.0) : 0;
  }
};

// The lower 16 bits, each followed by a zero.
uint32_t Spread(uint32_t bits) {
  bits = (bits | bits << 8) & 0x00ff00ffu;
  bits = (bits | bits << 4) & 0x0f0f0f0fu;
  bits = (bits | bits << 2) & 0x33333333u;
  return (bits | bits << 1) & 0x55555555u;
}

// Indices of the boxes that have an area, by label, then in Z-order, then ascending.
std::vector<int32_t> SpatialOrder(const std::vector<Box>& boxes,
                                  const std::vector<int32_t>& labels) {
  const auto centre_x = [](const Box& box) { return (double{box.x1} + box.x2) / 2; };
  const auto centre_y = [](const Box& box) { return (double{box.y1} + box.y2) / 2; };
  Axis x, y;
  std::vector<int32_t> order;
  for (size_t i = 0; i < boxes.size(); ++i) {
    if (!HasArea(boxes[i])) continue;
    order.push_back(static_cast<int32_t>(i));
    x.Include(centre_x(boxes[i]));
    y.Include(centre_y(boxes[i]));
  }
  const size_t size = order.size();
  std::vector<uint64_t> keys(size), buffer(size);
  const auto sort_by = [&](const auto& key) {
    for (size_t k = 0; k < size; ++k) keys[k] = uint64_t{key(order[k])} << 32 | k;
    SortByHighHalf(keys.data(), size, buffer.data());
    const std::vector<int32_t> before = order;
    for (size_t k = 0; k < size; ++k) order[k] = before[static_cast<uint32_t>(keys[k])];
  };
  sort_by([&](int32_t i) {
    return Spread(x.Step(centre_x(boxes[i]))) | Spread(y.Step(centre_y(boxes[i]))) << 1;
  });
  sort_by([&](int32_t i) { return static_cast<uint32_t>(labels[i]); });
  return order;
}

}  // namespace

BoxBlock::BoxBlock() {
  for (int64_t i = 0; i < kSize; ++i) Set(i, {kInfinity, kInfinity, -kInfinity, -kInfinity});
}

void BoxBlock::Set(int64_t i, const Box& box) {
  x1[i] = box.x1;
  y1[i] = box.y1;
  x2[i] = box.x2;
  y2[i] = box.y2;
}

void BoxBlock::Include(int64_t i, const Box& box) {
  Set(i, {std::min(x1[i], box.x1), std::min(y1[i], box.y1), std::max(x2[i], box.x2),
          std::max(y2[i], box.y2)});
}

void OverlapSearch::Build(const std::vector<Box>& boxes, const std::vector<int32_t>& labels) {
  constexpr int64_t kSize = BoxBlock::kSize;
  const std::vector<int32_t> order = SpatialOrder(boxes, labels);
  const auto size = static_cast<int64_t>(order.size());
  const int64_t num_leaves = (size + kSize - 1) / kSize;
  leaves_.assign(num_leaves, BoxLeaf());
  bounds_.assign((num_leaves + kSize - 1) / kSize, BoxBlock());
  places_.assign(boxes.size(), -1);
  leaf_range_of_.assign(boxes.size(), -1);
  leaf_ranges_.clear();
  for (int64_t place = 0; place < size; ++place) {
    const int32_t index = order[place];
    const int64_t leaf = place / kSize;
    BoxLeaf& to = leaves_[leaf];
    to.Set(place % kSize, boxes[index]);
    to.areas[place % kSize] = SuppressionArea(boxes[index]);
    to.labels[place % kSize] = labels[index];
    to.indices[place % kSize] = index;
    bounds_[leaf / kSize].Include(leaf % kSize, boxes[index]);
    if (place == 0 || labels[order[place - 1]] != labels[index]) {
      leaf_ranges_.push_back({leaf, leaf});
    }
    leaf_ranges_.back().end = leaf + 1;
    leaf_range_of_[index] = static_cast<int32_t>(leaf_ranges_.size()) - 1;
    places_[index] = place;
  }
}

int64_t OverlapSearch::Find(int64_t index, Overlap* found) const {
  static const auto find_overlaps = FindOverlapsForThisProcessor();
  const int64_t place = places_[index];
  if (place < 0) return 0;
  const BoxLeaf& leaf = leaves_[place / BoxBlock::kSize];
  const int64_t i = place % BoxBlock::kSize;
  const LeafRange range = leaf_ranges_[leaf_range_of_[index]];
  return find_overlaps(leaves_.data(), bounds_.data(), range.begin, range.end, leaf.At(i),
                       leaf.areas[i], leaf.labels[i], found);
}

void OverlapSearch::Remove(int64_t index) {
  const int64_t place = places_[index];
  if (place < 0) return;
  leaves_[place / BoxBlock::kSize].Set(place % BoxBlock::kSize, BoxBlock().At(0));
  places_[index] = -1;
}

}  // namespace kvision
