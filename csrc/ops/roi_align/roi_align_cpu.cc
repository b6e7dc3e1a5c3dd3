#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <tuple>
#include <type_traits>
#include <vector>

#include "common/isa.h"
#include "ops/roi_align/roi_align.h"
#include "ops/roi_align/roi_align_grid.h"
#include "ops/roi_align/roi_align_taps.h"

#define KVISION_ISA_FILE "ops/roi_align/roi_align_sum.inc"
#include "common/foreach_isa.h"

namespace kvision {
namespace {

template <bool kAccumulate, typename T, typename Out>
auto PickSumRow() {
  switch (CurrentIsa()) {
#ifdef __x86_64__
    case Isa::kAvx512:
      return &avx512::SumRow<kAccumulate, T, Out>;
    case Isa::kAvx2:
      return &avx2::SumRow<kAccumulate, T, Out>;
#endif
    default:
      return &baseline::SumRow<kAccumulate, T, Out>;
  }
}

// The map that a box reads and its grid there; not valid if there is nothing to read.
template <typename F, typename Level>
RoiAlignGrid<F> GridOf(int64_t box, const RoiAlignParameters& parameters, Span<const Level> levels,
                       const F* boxes, const int32_t* box_levels) {
  const int32_t index = box_levels[box];
  if (index < 0 || index >= levels.size) return {};
  const Level& level = levels[index];
  return MakeRoiAlignGrid(boxes + 4 * box, level.spatial_scale, level.height, level.width,
                          parameters);
}

int64_t CostOfBox(const RoiAlignParameters& parameters) {
  constexpr int64_t kTypicalCells = 12;
  return parameters.output_height * parameters.output_width * (parameters.channels + 16) *
             kTypicalCells / 8 +
         1;
}

// The boxes in the order of level, image and the row of their centre, so that boxes taken one after
// the other share cells in the cache.
template <typename F>
std::vector<int64_t> BoxesByPlace(const RoiAlignParameters& parameters, const F* boxes,
                                  const int32_t* box_levels) {
  const int64_t total = parameters.batch * parameters.num_boxes;
  std::vector<int64_t> order(total);
  std::iota(order.begin(), order.end(), int64_t{0});
  const auto place = [&](int64_t box) {
    const F centre = boxes[4 * box + 1] + boxes[4 * box + 3];
    return std::make_tuple(box_levels[box], box / parameters.num_boxes,
                           std::isfinite(centre) ? centre : F(0), box);
  };
  std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return place(a) < place(b); });
  return order;
}

// A box as the backward pass sees it: which bins each row and column of the map gives to.
template <typename F>
struct BoxCells {
  RoiAlignTaps<F> rows, columns;

  Span<const RoiAlignTap<F>> BinsOfRow(int64_t row) const {
    const auto group = std::lower_bound(rows.groups.begin(), rows.groups.end(), row,
                                        [](const RoiAlignTapGroup& candidate, int64_t wanted) {
                                          return candidate.target < wanted;
                                        });
    if (group == rows.groups.end() || group->target != row) return {nullptr, 0};
    return rows.Of(*group);
  }
};

template <typename F, typename Level>
std::vector<BoxCells<F>> CellsOfBoxes(const RoiAlignParameters& parameters,
                                      Span<const Level> levels, const F* boxes,
                                      const int32_t* box_levels, ParallelFor parallel_for) {
  constexpr int64_t kCost = 5000;
  const bool adaptive = parameters.sampling_ratio == 0;
  std::vector<BoxCells<F>> cells(parameters.batch * parameters.num_boxes);
  parallel_for(static_cast<int64_t>(cells.size()), kCost, [&](int64_t begin, int64_t end) {
    RoiAlignTaps<F> of_bins;
    for (int64_t box = begin; box < end; ++box) {
      const RoiAlignGrid<F> grid = GridOf(box, parameters, levels, boxes, box_levels);
      if (!grid.valid) continue;
      FindTapsOfBins(grid.rows, parameters.output_height, adaptive, &of_bins);
      cells[box].rows = TapsOfCells(of_bins);
      FindTapsOfBins(grid.columns, parameters.output_width, adaptive, &of_bins);
      cells[box].columns = TapsOfCells(of_bins);
    }
  });
  return cells;
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
  const auto sum_row = PickSumRow<false, T, T>();
  const bool adaptive = parameters.sampling_ratio == 0;
  const std::vector<int64_t> order = BoxesByPlace(parameters, boxes, box_levels);
  parallel_for(static_cast<int64_t>(order.size()), CostOfBox(parameters),
               [&](int64_t begin, int64_t end) {
                 RoiAlignTaps<F> rows, columns;
                 for (int64_t place = begin; place < end; ++place) {
                   const int64_t box = order[place];
                   T* box_output = output + box * box_size;
                   const RoiAlignGrid<F> grid = GridOf(box, parameters, levels, boxes, box_levels);
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
                     sum_row(image, rows.Of(bin), stride, columns, parameters.channels,
                             box_output + bin.target * row_size);
                   }
                 }
               });
}

template <typename T>
void RoiAlignBackward(const RoiAlignParameters& parameters, const T* output_gradient,
                      const RoiAlignBox<T>* boxes, const int32_t* box_levels,
                      Span<const RoiAlignLevel<T>> level_gradients, ParallelFor parallel_for) {
  using F = RoiAlignBox<T>;
  const int64_t bin_row_size = parameters.output_width * parameters.channels;
  const int64_t box_size = parameters.output_height * bin_row_size;
  const auto sum_row = PickSumRow<true, T, F>();
  const std::vector<BoxCells<F>> cells =
      CellsOfBoxes(parameters, level_gradients, boxes, box_levels, parallel_for);
  const int64_t box_cost = CostOfBox(parameters) * static_cast<int64_t>(cells.size());
  for (int64_t index = 0; index < level_gradients.size; ++index) {
    const RoiAlignLevel<T>& level = level_gradients[index];
    const int64_t row_size = level.width * parameters.channels;
    const int64_t total_rows = parameters.batch * level.height;
    if (row_size == 0 || total_rows == 0) continue;
    // A row of the map belongs to one task, and takes the boxes in their order.
    parallel_for(total_rows, row_size + box_cost / total_rows, [&](int64_t begin, int64_t end) {
      std::vector<F> sums(std::is_same_v<T, F> ? 0 : row_size);
      for (int64_t row = begin; row < end; ++row) {
        T* row_gradient = level.data + row * row_size;
        F* target;
        if constexpr (std::is_same_v<T, F>) {
          target = row_gradient;
        } else {
          target = sums.data();
        }
        std::fill_n(target, row_size, F(0));
        const int64_t first_box = row / level.height * parameters.num_boxes;
        for (int64_t box = first_box; box < first_box + parameters.num_boxes; ++box) {
          if (box_levels[box] != index) continue;
          const Span<const RoiAlignTap<F>> bins = cells[box].BinsOfRow(row % level.height);
          if (bins.size == 0) continue;
          sum_row(output_gradient + box * box_size, bins, bin_row_size, cells[box].columns,
                  parameters.channels, target);
        }
        if constexpr (!std::is_same_v<T, F>) {
          std::transform(sums.begin(), sums.end(), row_gradient,
                         [](F sum) { return FromFloat<T>(sum); });
        }
      }
    });
  }
}

#define KVISION_ROI_ALIGN(T)                                                                      \
  template void RoiAlignForward<T>(const RoiAlignParameters&, Span<const RoiAlignLevel<const T>>, \
                                   const RoiAlignBox<T>*, const int32_t*, T*, ParallelFor);       \
  template void RoiAlignBackward<T>(const RoiAlignParameters&, const T*, const RoiAlignBox<T>*,   \
                                    const int32_t*, Span<const RoiAlignLevel<T>>, ParallelFor);
KVISION_ROI_ALIGN(Half)
KVISION_ROI_ALIGN(BFloat16)
KVISION_ROI_ALIGN(float)
KVISION_ROI_ALIGN(double)
#undef KVISION_ROI_ALIGN

}  // namespace kvision
