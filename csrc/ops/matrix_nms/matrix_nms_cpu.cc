// Only boxes that overlap matter: without an overlap the quotient is at least 1. OverlapSearch
// finds them, once for the greatest IoUs and once for the decays, so that no matrix is needed.
#include <algorithm>
#include <limits>
#include <vector>

#include "common/lazy_sort.h"
#include "common/overlap_search.h"
#include "common/span.h"
#include "ops/matrix_nms/matrix_nms.h"

namespace kvision {
namespace {

constexpr int64_t kCostOfSearch = 2000;  // roughly, in CPU cycles

// Indices of the candidates by descending score, then ascending, and their scores' keys.
std::vector<uint64_t> BestFirst(const float* scores, int64_t size, float score_threshold) {
  std::vector<uint64_t> keys;
  for (int64_t i = 0; i < size; ++i) {
    const uint32_t key = ScoreKey(scores[i], score_threshold);
    if (key != kNoCandidate) keys.push_back(uint64_t{key} << 32 | i);
  }
  std::vector<uint64_t> buffer(keys.size());
  SortByHighHalf(keys.data(), keys.size(), buffer.data());
  return keys;
}

}  // namespace

void MatrixNmsCpu(const float* boxes, const float* scores, const int32_t* labels, int64_t num_boxes,
                  const MatrixNmsAttributes& attributes, int32_t* indices, float* decayed_scores,
                  int32_t* count, ParallelFor parallel_for) {
  const std::vector<uint64_t> order = BestFirst(scores, num_boxes, attributes.score_threshold);
  const auto num_candidates = static_cast<int64_t>(order.size());
  std::vector<Box> ordered_boxes(num_candidates);
  std::vector<int32_t> ordered_labels(num_candidates);
  for (int64_t rank = 0; rank < num_candidates; ++rank) {
    const auto i = static_cast<uint32_t>(order[rank]);
    const float* box = boxes + int64_t{4} * i;
    ordered_boxes[rank] = {box[0], box[1], box[2], box[3]};
    ordered_labels[rank] = labels[i];
  }
  OverlapSearch search;
  search.Build(ordered_boxes, ordered_labels);

  // Calls `body(rank, overlaps)` for all candidates. The overlaps are in no order of rank, and
  // those with boxes after `rank` are among them.
  const auto for_each = [&](const auto& body) {
    parallel_for(num_candidates, kCostOfSearch, [&](int64_t begin, int64_t end) {
      std::vector<OverlapSearch::Overlap> found(num_candidates);
      for (int64_t rank = begin; rank < end; ++rank) {
        body(rank,
             Span<const OverlapSearch::Overlap>{found.data(), search.Find(rank, found.data())});
      }
    });
  };
  std::vector<float> greatest_ious(num_candidates);
  for_each([&](int64_t rank, const auto& overlaps) {
    float greatest = 0.0f;
    for (const auto [before, iou] : overlaps) {
      if (before < rank) greatest = std::max(greatest, iou);
    }
    greatest_ious[rank] = greatest;
  });
  std::vector<float> all_decayed(num_boxes, -std::numeric_limits<float>::infinity());
  for_each([&](int64_t rank, const auto& overlaps) {
    MatrixNmsDecay decay(attributes);
    for (const auto [before, iou] : overlaps) {
      if (before < rank) decay.Include(iou, greatest_ious[before]);
    }
    const auto i = static_cast<uint32_t>(order[rank]);
    all_decayed[i] = DecayedScore(scores[i], decay.Factor());
  });

  const std::vector<uint64_t> result =
      BestFirst(all_decayed.data(), num_boxes, attributes.score_threshold);
  const int64_t size = SelectionSize(num_boxes, attributes.max_output_size);
  const int64_t num_returned = std::min<int64_t>(size, result.size());
  for (int64_t k = 0; k < num_returned; ++k) {
    indices[k] = static_cast<int32_t>(result[k]);
    decayed_scores[k] = all_decayed[indices[k]];
  }
  std::fill(indices + num_returned, indices + size, -1);
  std::fill(decayed_scores + num_returned, decayed_scores + size, 0.0f);
  *count = static_cast<int32_t>(num_returned);
}

}  // namespace kvision
