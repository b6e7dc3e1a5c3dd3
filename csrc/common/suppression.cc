#include "common/suppression.h"

#include <algorithm>
#include <limits>

#include "common/isa.h"
#include "common/kept_boxes.h"
#include "common/lazy_sort.h"
#include "common/span.h"

namespace kvision {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

}  // namespace
}  // namespace kvision

#define KVISION_ISA_FILE "common/suppression.inc"
#include "common/foreach_isa.h"

namespace kvision {
namespace {

auto* VisitForThisProcessor() {
#ifdef __x86_64__
  if (CurrentIsa() == Isa::kAvx512) return avx512::Visit;
  if (CurrentIsa() == Isa::kAvx2) return avx2::Visit;
#endif
  return baseline::Visit;
}

}  // namespace

Suppressor::Suppressor() : kept_(std::make_unique<KeptBoxes>()) {}
Suppressor::~Suppressor() = default;

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
  kept_->Reset(set, candidates_, limit, rule.iou_threshold);
  LazySort best_first(candidates_, buffer_, limit + limit / 2);

  const auto visit = VisitForThisProcessor();
  int64_t num_kept = 0;
  while (num_kept < limit) {
    const Span<const uint64_t> run = best_first.Next();
    if (run.size == 0) break;
    num_kept += visit(set, run, rule.iou_threshold, limit - num_kept, *kept_, kept + num_kept);
  }
  return num_kept;
}

}  // namespace kvision
