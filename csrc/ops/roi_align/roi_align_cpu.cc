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

template <typename T, typename Out>
auto PickSumCells() {
  switch (CurrentIsa()) {
#ifdef __x86_64__
    case Isa::kAvx512:
      return &avx512::SumCells<T, Out>;
    case Isa::kAvx2:
      return &avx2::SumCells<T, Out>;
#endif
    default:
      return &baseline::SumCells<T, Out>;
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
};

bool IsBefore(const RoiAlignTapGroup& group, int64_t target) { return group.target < target; }

// A box that still gives to rows of the map, first to that of its group `next`.
struct Visitor {
  int64_t box, next;
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

// One row of a map's gradient. The terms of all boxes are sorted by cell before they are summed,
// so that a cell is summed in registers and written once; only a row of very many terms is summed
// in several parts.
template <typename T>
class GradientRow {
  using F = AccumulatorOf<T>;

 public:
  GradientRow(int64_t width, int64_t channels) : channels_(channels), ends_(width) {}

  void Start(T* row) {
    row_ = row;
    begun_ = false;
  }

  // Adds a row of bins, times `weight`, to the cells of the columns.
  void Add(const T* bins, F weight, const RoiAlignTaps<F>& columns) {
    const int64_t number = static_cast<int64_t>(columns.taps.size());
    if (number_of_terms_ > 0 && number_of_terms_ + number > kMaxTerms) {
      if constexpr (std::is_same_v<T, F>) {
        SumInto(row_, row_);
      } else {
        sums_.resize(ends_.size() * channels_);
        SumInto(sums_.data(), sums_.data());
      }
    }
    pieces_.push_back({bins, weight, &columns});
    number_of_terms_ += number;
  }

  void Finish() {
    if constexpr (std::is_same_v<T, F>) {
      SumInto(row_, row_);
    } else {
      SumInto(sums_.data(), row_);
    }
  }

 private:
  static constexpr int64_t kMaxTerms = 1 << 14;

  struct Piece {
    const T* bins;
    F weight;
    const RoiAlignTaps<F>* columns;
  };

  template <typename Out>
  void SumInto(const F* start, Out* out) {
    // A counting sort. First where the terms of a cell begin, which moves as they are filled in.
    std::fill(ends_.begin(), ends_.end(), 0);
    for (const Piece& piece : pieces_) {
      for (const RoiAlignTapGroup& cell : piece.columns->groups) {
        ends_[cell.target] += cell.end - cell.begin;
      }
    }
    std::exclusive_scan(ends_.begin(), ends_.end(), ends_.begin(), int64_t{0});
    terms_.resize(std::max<size_t>(terms_.size(), number_of_terms_));
    for (const Piece& piece : pieces_) {
      for (const RoiAlignTapGroup& cell : piece.columns->groups) {
        for (const RoiAlignTap<F>& tap : piece.columns->Of(cell)) {
          terms_[ends_[cell.target]++] = {piece.bins + tap.source * channels_,
                                          piece.weight * tap.weight};
        }
      }
    }
    PickSumCells<T, Out>()(terms_.data(), {ends_.data(), static_cast<int64_t>(ends_.size())},
                           channels_, begun_ ? start : nullptr, out);
    begun_ = true;
    pieces_.clear();
    number_of_terms_ = 0;
  }

  const int64_t channels_;
  T* row_ = nullptr;
  bool begun_ = false;
  int64_t number_of_terms_ = 0;
  std::vector<Piece> pieces_;
  std::vector<RoiAlignTerm<T>> terms_;
  std::vector<int64_t> ends_;
  std::vector<F> sums_;
};

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
                     sum_bins(image, rows.Of(bin), stride, columns, parameters.channels,
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
      GradientRow<T> gradient(level.width, parameters.channels);
      std::vector<Visitor> visitors;
      for (int64_t row = begin; row < end; ++row) {
        const int64_t image = row / level.height, image_row = row % level.height;
        if (row == begin || image_row == 0) {
          visitors.clear();
          for (int64_t i = 0; i < parameters.num_boxes; ++i) {
            const int64_t box = image * parameters.num_boxes + i;
            if (box_levels[box] != index) continue;
            const auto& groups = cells[box].rows.groups;
            const auto next = std::lower_bound(groups.begin(), groups.end(), image_row, IsBefore);
            if (next != groups.end()) visitors.push_back({box, next - groups.begin()});
          }
        }
        gradient.Start(level.data + row * row_size);
        for (Visitor& visitor : visitors) {
          const BoxCells<F>& box = cells[visitor.box];
          if (visitor.next == static_cast<int64_t>(box.rows.groups.size())) continue;
          const RoiAlignTapGroup& group = box.rows.groups[visitor.next];
          if (group.target != image_row) continue;
          ++visitor.next;
          for (const RoiAlignTap<F>& tap : box.rows.Of(group)) {
            gradient.Add(output_gradient + visitor.box * box_size + tap.source * bin_row_size,
                         tap.weight, box.columns);
          }
        }
        gradient.Finish();
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
