#include <algorithm>
#include <cmath>
#include <cstdint>
#include <tuple>
#include <vector>

#include "common/isa.h"
#include "ops/roi_align/roi_align.h"
#include "ops/roi_align/roi_align_grid.h"
#include "ops/roi_align/roi_align_taps.h"

#define KVISION_ISA_FILE "ops/roi_align/roi_align_sum.inc"
#include "common/foreach_isa.h"

namespace kvision {
namespace {

template <typename T>
auto PickSumBins() {
  switch (CurrentIsa()) {
#ifdef __x86_64__
    case Isa::kAvx512:
      return &avx512::SumBins<T>;
    case Isa::kAvx2:
      return &avx2::SumBins<T>;
#endif
    default:
      return &baseline::SumBins<T>;
  }
}

// The boxes in the order of level, image and place on the map, by bands of rows and along each of
// them, so that boxes taken one after the other share cells in the cache.
template <typename F, typename Level>
std::vector<int64_t> BoxesByPlace(const RoiAlignParameters& parameters, Span<const Level> levels,
                                  const F* boxes, const int32_t* box_levels) {
  constexpr F kBandRows = 24;
  struct Place {
    int32_t level;
    F band, column;
    int64_t box;
  };
  std::vector<Place> places(parameters.batch * parameters.num_boxes);
  for (int64_t box = 0; box < static_cast<int64_t>(places.size()); ++box) {
    places[box] = {box_levels[box], F(0), F(0), box};
    if (box_levels[box] < 0 || box_levels[box] >= levels.size) continue;
    const F scale = static_cast<F>(levels[box_levels[box]].spatial_scale);
    const F row = (boxes[4 * box + 1] + boxes[4 * box + 3]) / 2 * scale;
    const F column = (boxes[4 * box] + boxes[4 * box + 2]) / 2 * scale;
    if (!std::isfinite(row) || !std::isfinite(column)) continue;
    places[box].band = std::floor(row / kBandRows);
    places[box].column = column;
  }
  const auto key = [&](const Place& place) {
    return std::make_tuple(place.level, place.box / parameters.num_boxes, place.band, place.column,
                           place.box);
  };
  std::sort(places.begin(), places.end(),
            [&](const Place& a, const Place& b) { return key(a) < key(b); });
  std::vector<int64_t> order(places.size());
  std::transform(places.begin(), places.end(), order.begin(),
                 [](const Place& place) { return place.box; });
  return order;
}

}  // namespace

template <typename T>
void RoiAlignForward(const RoiAlignParameters& parameters,
                     Span<const RoiAlignLevel<const T>> levels, const RoiAlignBox<T>* boxes,
                     const int32_t* box_levels, T* output, ParallelFor parallel_for) {
  using F = RoiAlignBox<T>;
  const int64_t row_size = parameters.output_width * parameters.channels;
  const int64_t box_size = parameters.output_height * row_size;
  if (box_size == 0) return;
  const auto sum_bins = PickSumBins<T>();
  const bool adaptive = parameters.sampling_ratio == 0;
  const std::vector<int64_t> order = BoxesByPlace(parameters, levels, boxes, box_levels);
  parallel_for(static_cast<int64_t>(order.size()), RoiAlignCostOfBox(parameters),
               [&](int64_t begin, int64_t end) {
                 RoiAlignTaps<F> rows, columns;
                 for (int64_t place = begin; place < end; ++place) {
                   const int64_t box = order[place];
                   T* box_output = output + box * box_size;
                   const RoiAlignGrid<F> grid =
                       RoiAlignGridOf(box, parameters, levels, boxes, box_levels);
                   if (!grid.valid) {
                     std::fill_n(box_output, box_size, T{});
                     continue;
                   }
                   FindTapsOfBins(grid.rows, parameters.output_height, adaptive, &rows);
                   FindTapsOfBins(grid.columns, parameters.output_width, adaptive, &columns);
                   const RoiAlignLevel<const T>& level = levels[box_levels[box]];
                   const int64_t stride = level.width * parameters.channels;
                   const T* image = level.data + box / parameters.num_boxes * level.height * stride;
                   for (const RoiAlignTapGroup& bin : rows.groups) {
                     sum_bins(image, rows.Of(bin), stride, columns, parameters.channels,
                              box_output + bin.target * row_size);
                   }
                 }
               });
}

#define KVISION_ROI_ALIGN(T)                                                                      \
  template void RoiAlignForward<T>(const RoiAlignParameters&, Span<const RoiAlignLevel<const T>>, \
                                   const RoiAlignBox<T>*, const int32_t*, T*, ParallelFor);
KVISION_ROI_ALIGN(Half)
KVISION_ROI_ALIGN(BFloat16)
KVISION_ROI_ALIGN(float)
KVISION_ROI_ALIGN(double)
#undef KVISION_ROI_ALIGN

}  // namespace kvision
