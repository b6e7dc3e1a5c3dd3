#include <algorithm>
#include <cmath>
#include <cstdint>
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
      const RoiAlignGrid<F> grid = GridOf(box, parameters, levels, boxes, box_levels);
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
      GradientCells<T> gradient(output_gradient, parameters.channels);
      std::vector<BoxInBand<F>> boxes_in_band;
      std::vector<BoxInTile<F>> boxes_in_tile;
      // The rows of one image, in tiles that are narrow enough for the bins that a row reads to be
      // in the cache still when the next one reads them.
      for (int64_t next; begin < end; begin = next) {
        const int64_t image = begin / level.height, first_row = begin % level.height;
        next = std::min(end, (image + 1) * level.height);
        boxes_in_band.clear();
        for (int64_t box = image * parameters.num_boxes; box < (image + 1) * parameters.num_boxes;
             ++box) {
          if (box_levels[box] != index) continue;
          const auto rows =
              TapsBetween(SpanOf(cells[box].rows), first_row, first_row + next - begin);
          if (rows.size == 0) continue;
          boxes_in_band.push_back({box * box_size, rows, SpanOf(cells[box].columns)});
        }
        for (int64_t left = 0; left < level.width; left += gradient.kCells) {
          const int64_t right = std::min(level.width, left + gradient.kCells);
          boxes_in_tile.clear();
          for (const BoxInBand<F>& box : boxes_in_band) {
            const auto columns = TapsBetween(box.columns, left, right);
            if (columns.size == 0) continue;
            boxes_in_tile.push_back({box.first_bin, box.rows.begin(), box.rows.end(), columns});
          }
          for (int64_t row = begin; row < next; ++row) {
            gradient.Start(level.data + row * row_size + left * parameters.channels);
            for (BoxInTile<F>& box : boxes_in_tile) {
              for (; box.row != box.rows_end && box.row->cell == row - begin + first_row;
                   ++box.row) {
                const int64_t bins = box.first_bin + box.row->bin * bin_row_size;
                for (const RoiAlignCellTap<F>& column : box.columns) {
                  gradient.Add(column.cell - left, bins + column.bin * parameters.channels,
                               box.row->weight * column.weight);
                }
              }
            }
            gradient.Finish(right - left);
          }
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
