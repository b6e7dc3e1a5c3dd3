// The samples of one axis of a box, merged: which cells each bin reads, and by which weight. Turned
// round: which bins each cell gives to.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "common/span.h"
#include "ops/roi_align/roi_align_grid.h"

namespace kvision {

template <typename F>
struct RoiAlignTap {
  int64_t source;
  F weight;
};

// The taps [begin, end) of a list, which belong to one bin (their sources are cells) or to one cell
// (their sources are bins).
struct RoiAlignTapGroup {
  int64_t target;
  int64_t begin, end;
};

template <typename F>
struct RoiAlignTaps {
  std::vector<RoiAlignTap<F>> taps;
  std::vector<RoiAlignTapGroup> groups;

  Span<const RoiAlignTap<F>> Of(const RoiAlignTapGroup& group) const {
    return {taps.data() + group.begin, group.end - group.begin};
  }
};

// Turned round: what a cell takes from a bin along one axis.
template <typename F>
struct RoiAlignCellTap {
  int64_t cell, bin;
  F weight;
};

namespace roi_align_internal {

// Adds a weight to the tap of a cell that the last few samples read too, or makes a new one.
template <typename F>
inline void AddTap(int64_t cell, F weight, size_t bin_begin, std::vector<RoiAlignTap<F>>* taps) {
  if (weight == F(0)) return;
  constexpr size_t kLookBack = 3;
  const size_t stop = std::max(bin_begin, taps->size() - std::min(taps->size(), kLookBack));
  for (size_t i = taps->size(); i-- > stop;) {
    if ((*taps)[i].source == cell) {
      (*taps)[i].weight += weight;
      return;
    }
  }
  taps->push_back({cell, weight});
}

}  // namespace roi_align_internal

// One group for each bin, in order; empty for a bin that reads nothing.
template <typename F>
void FindTapsOfBins(const RoiAlignAxis<F>& axis, int64_t bins, bool adaptive,
                    RoiAlignTaps<F>* result) {
  result->taps.clear();
  result->groups.clear();
  const F sample_weight = axis.SampleWeight();
  for (int64_t bin = 0; bin < bins; ++bin) {
    const size_t begin = result->taps.size();
    const F bin_start = axis.BinStart(bin);
    const RoiAlignSamples<F> samples = axis.SamplesOnMap(bin_start, adaptive);
    for (int64_t i = 0; i < samples.number; ++i) {
      const F position = axis.Position(bin_start, samples.first + static_cast<F>(i));
      if (!ReadsMap(position, axis.size)) continue;
      const BilinearTaps<F> taps = TapsAt(position, axis.size);
      roi_align_internal::AddTap(taps.low, taps.low_weight * sample_weight, begin, &result->taps);
      roi_align_internal::AddTap(taps.high, taps.high_weight * sample_weight, begin, &result->taps);
    }
    result->groups.push_back(
        {bin, static_cast<int64_t>(begin), static_cast<int64_t>(result->taps.size())});
  }
}

// By ascending cell; those of one cell by ascending bin.
template <typename F>
std::vector<RoiAlignCellTap<F>> TapsByCell(const RoiAlignTaps<F>& of_bins) {
  std::vector<RoiAlignCellTap<F>> result;
  result.reserve(of_bins.taps.size());
  for (const RoiAlignTapGroup& bin : of_bins.groups) {
    for (const RoiAlignTap<F>& tap : of_bins.Of(bin)) {
      result.push_back({tap.source, bin.target, tap.weight});
    }
  }
  std::stable_sort(
      result.begin(), result.end(),
      [](const RoiAlignCellTap<F>& a, const RoiAlignCellTap<F>& b) { return a.cell < b.cell; });
  return result;
}

// Those of the cells [begin, end).
template <typename F>
Span<const RoiAlignCellTap<F>> TapsBetween(Span<const RoiAlignCellTap<F>> taps, int64_t begin,
                                           int64_t end) {
  const auto before = [](const RoiAlignCellTap<F>& tap, int64_t cell) { return tap.cell < cell; };
  const auto first = std::lower_bound(taps.begin(), taps.end(), begin, before);
  return {first, std::lower_bound(first, taps.end(), end, before) - first};
}

// What the taps of a box cost, roughly, forward or backward.
inline int64_t RoiAlignCostOfBox(const RoiAlignParameters& parameters) {
  constexpr int64_t kTypicalCells = 12;
  return parameters.output_height * parameters.output_width * (parameters.channels + 16) *
             kTypicalCells / 8 +
         1;
}

}  // namespace kvision
