// Scores are kept up to date: whoever overlaps the box just selected is found by OverlapSearch. The
// order of the candidates is not: a heap holds scores that were true once, which only fell since,
// and a candidate whose score is out of date when it comes first is put back.
#include <algorithm>
#include <functional>
#include <vector>

#include "common/overlap_search.h"
#include "ops/soft_nms/soft_nms.h"

namespace kvision {

void SoftNmsCpu(const float* boxes, const float* scores, const int32_t* labels, int64_t num_boxes,
                const SoftNmsAttributes& attributes, int32_t* indices, float* decayed_scores,
                int32_t* count) {
  const float threshold = attributes.score_threshold;
  std::vector<int32_t> index_of, candidate_labels;
  std::vector<Box> candidate_boxes;
  std::vector<float> current;
  std::vector<uint64_t> heap;  // score key << 32 | candidate
  for (int64_t i = 0; i < num_boxes; ++i) {
    const uint32_t key = ScoreKey(scores[i], threshold);
    if (key == kNoCandidate) continue;
    heap.push_back(uint64_t{key} << 32 | index_of.size());
    index_of.push_back(static_cast<int32_t>(i));
    candidate_labels.push_back(labels[i]);
    candidate_boxes.push_back({boxes[4 * i], boxes[4 * i + 1], boxes[4 * i + 2], boxes[4 * i + 3]});
    current.push_back(scores[i]);
  }
  OverlapSearch search;
  search.Build(candidate_boxes, candidate_labels);
  std::vector<OverlapSearch::Overlap> found(index_of.size());

  const std::greater<> lowest_first;
  std::make_heap(heap.begin(), heap.end(), lowest_first);
  const int64_t size = SelectionSize(num_boxes, attributes.max_output_size);
  int64_t num_selected = 0;
  while (num_selected < size && !heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), lowest_first);
    const uint64_t first = heap.back();
    heap.pop_back();
    const auto selected = static_cast<uint32_t>(first);
    const uint32_t key = ScoreKey(current[selected], threshold);
    if (key == kNoCandidate) continue;
    if (key != first >> 32) {
      heap.push_back(uint64_t{key} << 32 | selected);
      std::push_heap(heap.begin(), heap.end(), lowest_first);
      continue;
    }
    indices[num_selected] = index_of[selected];
    decayed_scores[num_selected++] = current[selected];

    const int64_t num_found = search.Find(selected, found.data());
    search.Remove(selected);
    for (int64_t k = 0; k < num_found; ++k) {
      const auto [other, iou] = found[k];
      if (other == static_cast<int32_t>(selected)) continue;
      current[other] = DecayedScore(current[other], attributes.Factor(iou));
      if (!(current[other] > threshold)) search.Remove(other);
    }
  }
  std::fill(indices + num_selected, indices + size, -1);
  std::fill(decayed_scores + num_selected, decayed_scores + size, 0.0f);
  *count = static_cast<int32_t>(num_selected);
}

}  // namespace kvision
