#include "common/suppression.h"

#include <algorithm>
#include <limits>

#include "common/isa.h"
#include "common/lazy_sort.h"

namespace kvision {
namespace {

// Boxes kept are stored in blocks: kBlock x1, kBlock y1, kBlock x2, kBlock y2, kBlock areas.
constexpr int64_t kBlock = 32;
constexpr int64_t kBlockFloats = 5 * kBlock;

Box BoxInBlock(const float* block, int64_t i) {
  return Box{block[i], block[kBlock + i], block[2 * kBlock + i], block[3 * kBlock + i]};
}

}  // namespace
}  // namespace kvision

#define KVISION_ISA_FILE "common/suppression.inc"
#include "common/foreach_isa.h"

namespace kvision {
namespace {

auto* IsSuppressedForThisProcessor() {
#ifdef __x86_64__
  if (CurrentIsa() == Isa::kAvx512) return avx512::IsSuppressed;
  if (CurrentIsa() == Isa::kAvx2) return avx2::IsSuppressed;
#endif
  return baseline::IsSuppressed;
}

}  // namespace

int64_t Suppressor::Run(const ScoredBoxes& set, const SuppressionRule& rule, int32_t* kept) {
  candidates_.resize(set.size);
  size_t num_candidates = 0;
  for (int64_t i = 0; i < set.size; ++i) {
    const uint32_t key = ScoreKey(set.scores[i * set.score_stride], rule.score_threshold);
    candidates_[num_candidates] = static_cast<uint64_t>(key) << 32 | static_cast<uint64_t>(i);
    num_candidates += key != kNoCandidate;
  }
  candidates_.resize(num_candidates);
  const int64_t limit = std::min<int64_t>(rule.max_kept, num_candidates);
  LazySort best_first(candidates_, buffer_, limit + limit / 2);

  const auto is_suppressed = IsSuppressedForThisProcessor();
  kept_.clear();
  int64_t num_kept = 0;
  for (uint64_t candidate; num_kept < limit && best_first.Next(&candidate);) {
    const auto index = static_cast<int32_t>(candidate);
    const Box box = set.BoxAt(index);
    const float area = SuppressionArea(box);
    const int64_t num_blocks = static_cast<int64_t>(kept_.size()) / kBlockFloats;
    if (is_suppressed(kept_.data(), num_blocks, box, area, rule.iou_threshold)) continue;
    const int64_t slot = num_kept % kBlock;
    if (slot == 0) {  // a block of infinite areas, which suppress nothing
      kept_.resize(kept_.size() + kBlockFloats, std::numeric_limits<float>::infinity());
    }
    float* block = kept_.data() + num_kept / kBlock * kBlockFloats;
    const float values[] = {box.x1, box.y1, box.x2, box.y2, area};
    for (int64_t k = 0; k < 5; ++k) block[k * kBlock + slot] = values[k];
    kept[num_kept++] = index;
  }
  return num_kept;
}

}  // namespace kvision
