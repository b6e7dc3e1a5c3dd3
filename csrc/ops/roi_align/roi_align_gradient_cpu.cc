#include <algorithm>
#include <cstdint>
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

template <typename T, typename Out>
auto PickSumCell() {
  switch (CurrentIsa()) {
#ifdef __x86_64__
    case Isa::kAvx512:
      return &avx512::SumCell<T, Out>;
    case Isa::kAvx2:
      return &avx2::SumCell<T, Out>;
#endif
    default:
      return &baseline::SumCell<T, Out>;
  }
}

// A box as the backward pass sees it: what each row and column of the map takes from which bins.
template <typename F>
struct BoxCells {
  std::vector<RoiAlignCellTap<F>> rows, columns;
};

template <typename F>
Span<const RoiAlignCellTap<F>> SpanOf(const std::vector<RoiAlignCellTap<F>>& taps) {
  return {taps.data(), static_cast<int64_t>(taps.size())};
}

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
      const RoiAlignGrid<F> grid = RoiAlignGridOf(box, parameters, levels, boxes, box_levels);
      if (!grid.valid) continue;
      FindTapsOfBins(grid.rows, parameters.output_height, adaptive, &of_bins);
      cells[box].rows = TapsByCell(of_bins);
      FindTapsOfBins(grid.columns, parameters.output_width, adaptive, &of_bins);
      cells[box].columns = TapsByCell(of_bins);
    }
  });
  return cells;
}

// Some cells of a row of a map's gradient. The terms of all boxes are first sorted by cell, so that
// a cell is summed in registers and written once; only one of very many terms is summed in parts.
template <typename T>
class GradientCells {
  using F = AccumulatorOf<T>;

 public:
  GradientCells(const T* output_gradient, int64_t channels)
      : output_gradient_(output_gradient),
        channels_(channels),
        terms_(kCells * kTerms),
        sums_(kInPlace ? 0 : kCells * channels) {}

  static constexpr int64_t kCells = 64;

  void Start(T* out) {
    out_ = out;
    std::fill_n(number_, kCells, 0);
    std::fill_n(begun_, kCells, false);
  }

  void Add(int64_t cell, int64_t bin, F weight) {
    if (number_[cell] == kTerms) {
      sum_part_(output_gradient_, {&terms_[cell * kTerms], kTerms}, channels_, StartOf(cell),
                Sums(cell));
      begun_[cell] = true;
      number_[cell] = 0;
    }
    terms_[cell * kTerms + number_[cell]++] = {bin, weight};
  }

  void Finish(int64_t cells) {
    for (int64_t cell = 0; cell < cells; ++cell) {
      sum_(output_gradient_, {&terms_[cell * kTerms], number_[cell]}, channels_, StartOf(cell),
           out_ + cell * channels_);
    }
  }

 private:
  static constexpr int64_t kTerms = 64;
  static constexpr bool kInPlace = std::is_same_v<T, F>;

  F* Sums(int64_t cell) {
    if constexpr (kInPlace) {
      return out_ + cell * channels_;
    } else {
      return sums_.data() + cell * channels_;
    }
  }
  const F* StartOf(int64_t cell) { return begun_[cell] ? Sums(cell) : nullptr; }

  const T* const output_gradient_;
  const int64_t channels_;
  std::vector<RoiAlignTap<F>> terms_;
  std::vector<F> sums_;
  T* out_ = nullptr;
  int64_t number_[kCells];
  bool begun_[kCells];
  const decltype(PickSumCell<T, T>()) sum_ = PickSumCell<T, T>();
  const decltype(PickSumCell<T, F>()) sum_part_ = PickSumCell<T, F>();
};

// Rows of one image of a map's gradient, which belong to one task.
struct RowBand {
  int64_t image;
  int64_t first_row, rows;  // in the image
};

// The taps of a box in a band of rows.
template <typename F>
struct BoxInBand {
  int64_t first_bin;
  Span<const RoiAlignCellTap<F>> rows, columns;
};

// Those in a tile of the band. `row` moves on with the rows.
template <typename F>
struct BoxInTile {
  int64_t first_bin;
  const RoiAlignCellTap<F>*row, *rows_end;
  Span<const RoiAlignCellTap<F>> columns;
};

// Sums the gradient of one level, band by band. One for each task: it keeps its memory.
template <typename T>
class LevelGradient {
  using F = AccumulatorOf<T>;

 public:
  LevelGradient(const RoiAlignParameters& parameters, const T* output_gradient,
                const RoiAlignLevel<T>& level)
      : parameters_(parameters), level_(level), cells_(output_gradient, parameters.channels) {}

  // `box_levels` and `boxes` are those of all images; `index` is the level's.
  void SumBand(const RowBand& band, int64_t index, const int32_t* box_levels,
               const std::vector<BoxCells<F>>& boxes) {
    FindBoxesInBand(band, index, box_levels, boxes);
    // In tiles that are narrow enough for the bins that a row reads to be in the cache still when
    // the next one reads them.
    for (int64_t left = 0; left < level_.width; left += cells_.kCells) {
      const int64_t right = std::min(level_.width, left + cells_.kCells);
      FindBoxesInTile(left, right);
      for (int64_t row = band.first_row; row < band.first_row + band.rows; ++row) {
        SumRowOfTile(band.image, row, left, right);
      }
    }
  }

 private:
  void FindBoxesInBand(const RowBand& band, int64_t index, const int32_t* box_levels,
                       const std::vector<BoxCells<F>>& boxes) {
    const int64_t box_size =
        parameters_.output_height * parameters_.output_width * parameters_.channels;
    boxes_in_band_.clear();
    for (int64_t box = band.image * parameters_.num_boxes;
         box < (band.image + 1) * parameters_.num_boxes; ++box) {
      if (box_levels[box] != index) continue;
      const auto rows =
          TapsBetween(SpanOf(boxes[box].rows), band.first_row, band.first_row + band.rows);
      if (rows.size == 0) continue;
      boxes_in_band_.push_back({box * box_size, rows, SpanOf(boxes[box].columns)});
    }
  }

  void FindBoxesInTile(int64_t left, int64_t right) {
    boxes_in_tile_.clear();
    for (const BoxInBand<F>& box : boxes_in_band_) {
      const auto columns = TapsBetween(box.columns, left, right);
      if (columns.size == 0) continue;
      boxes_in_tile_.push_back({box.first_bin, box.rows.begin(), box.rows.end(), columns});
    }
  }

  void SumRowOfTile(int64_t image, int64_t row, int64_t left, int64_t right) {
    const int64_t channels = parameters_.channels;
    const int64_t bin_row_size = parameters_.output_width * channels;
    cells_.Start(level_.data + ((image * level_.height + row) * level_.width + left) * channels);
    for (BoxInTile<F>& box : boxes_in_tile_) {
      for (; box.row != box.rows_end && box.row->cell == row; ++box.row) {
        const int64_t bins = box.first_bin + box.row->bin * bin_row_size;
        for (const RoiAlignCellTap<F>& column : box.columns) {
          cells_.Add(column.cell - left, bins + column.bin * channels,
                     box.row->weight * column.weight);
        }
      }
    }
    cells_.Finish(right - left);
  }

  const RoiAlignParameters& parameters_;
  const RoiAlignLevel<T>& level_;
  GradientCells<T> cells_;
  std::vector<BoxInBand<F>> boxes_in_band_;
  std::vector<BoxInTile<F>> boxes_in_tile_;
};

}  // namespace

template <typename T>
void RoiAlignBackward(const RoiAlignParameters& parameters, const T* output_gradient,
                      const RoiAlignBox<T>* boxes, const int32_t* box_levels,
                      Span<const RoiAlignLevel<T>> level_gradients, ParallelFor parallel_for) {
  const std::vector<BoxCells<RoiAlignBox<T>>> cells =
      CellsOfBoxes(parameters, level_gradients, boxes, box_levels, parallel_for);
  const int64_t box_cost = RoiAlignCostOfBox(parameters) * static_cast<int64_t>(cells.size());
  for (int64_t index = 0; index < level_gradients.size; ++index) {
    const RoiAlignLevel<T>& level = level_gradients[index];
    const int64_t row_size = level.width * parameters.channels;
    const int64_t total_rows = parameters.batch * level.height;
    if (row_size == 0 || total_rows == 0) continue;
    // A row of the map belongs to one task, and takes the boxes in their order.
    parallel_for(total_rows, row_size + box_cost / total_rows, [&](int64_t begin, int64_t end) {
      LevelGradient<T> gradient(parameters, output_gradient, level);
      while (begin < end) {
        const int64_t image = begin / level.height, first_row = begin % level.height;
        const int64_t rows = std::min(end - begin, level.height - first_row);
        gradient.SumBand({image, first_row, rows}, index, box_levels, cells);
        begin += rows;
      }
    });
  }
}

#define KVISION_ROI_ALIGN(T)                                                                    \
  template void RoiAlignBackward<T>(const RoiAlignParameters&, const T*, const RoiAlignBox<T>*, \
                                    const int32_t*, Span<const RoiAlignLevel<T>>, ParallelFor);
KVISION_ROI_ALIGN(Half)
KVISION_ROI_ALIGN(BFloat16)
KVISION_ROI_ALIGN(float)
KVISION_ROI_ALIGN(double)
#undef KVISION_ROI_ALIGN

}  // namespace kvision
