#include <algorithm>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

#include "common/isa.h"
#include "ops/roi_pool/roi_pool.h"
#include "ops/roi_pool/roi_pool_bins.h"

#define KVISION_ISA_FILE "ops/roi_pool/roi_pool_max.inc"
#include "common/foreach_isa.h"

namespace kvision {
namespace {

template <typename T>
auto PickMaxOfBin() {
  switch (CurrentIsa()) {
#ifdef __x86_64__
    case Isa::kAvx512:
      return &avx512::MaxOfBin<T>;
    case Isa::kAvx2:
      return &avx2::MaxOfBin<T>;
#endif
    default:
      return &baseline::MaxOfBin<T>;
  }
}

}  // namespace

template <typename T>
void RoiPoolForward(const RoiPoolParameters& parameters, const T* features,
                    const RoiPoolBox<T>* boxes, T* output, int32_t* argmax,
                    ParallelFor parallel_for) {
  using F = RoiPoolBox<T>;
  constexpr int64_t kTypicalCells = 30;
  const int64_t channels = parameters.channels;
  if (parameters.batch * parameters.num_boxes * channels == 0) return;
  const int64_t bins = parameters.output_height * parameters.output_width;
  const auto max_of_bin = PickMaxOfBin<T>();
  parallel_for(
      parameters.batch * parameters.num_boxes, bins * (channels + 16) * kTypicalCells / 4 + 1,
      [&](int64_t begin, int64_t end) {
        for (int64_t box = begin; box < end; ++box) {
          const RoiPoolGrid<F> grid = MakeRoiPoolGrid(boxes + 4 * box, parameters);
          const T* map = features + box / parameters.num_boxes * parameters.Cells() * channels;
          for (int64_t bin = 0; bin < bins; ++bin) {
            const RoiPoolCells rows = grid.rows.CellsOf(bin / parameters.output_width);
            const RoiPoolCells columns = grid.columns.CellsOf(bin % parameters.output_width);
            const int64_t at = (box * bins + bin) * channels;
            if (rows.begin < rows.end && columns.begin < columns.end) {
              max_of_bin(map, parameters.width, channels, rows, columns, output + at, argmax + at);
            } else {
              std::fill_n(output + at, channels, T{});
              std::fill_n(argmax + at, channels, -1);
            }
          }
        }
      });
}

template <typename T>
void RoiPoolBackward(const RoiPoolParameters& parameters, const T* output_gradient,
                     const int32_t* argmax, T* feature_gradient, ParallelFor parallel_for) {
  using F = AccumulatorOf<T>;
  // A task owns a few channels of one map, a cache line of each cell, and takes the bins in order.
  constexpr int64_t kBlock = 16;
  // Lines so far apart are not fetched ahead by the processor itself.
  constexpr int64_t kBinsAhead = 8;
  constexpr bool kInPlace = std::is_same_v<T, F>;
  const int64_t channels = parameters.channels, cells = parameters.Cells();
  if (parameters.batch * cells * channels == 0) return;
  const int64_t bins = parameters.Bins();
  const int64_t blocks = (channels + kBlock - 1) / kBlock;
  parallel_for(
      parameters.batch * blocks, (cells + 4 * bins) * kBlock, [&](int64_t begin, int64_t end) {
        std::vector<F> sums(kInPlace ? 0 : cells * kBlock);
        for (int64_t task = begin; task < end; ++task) {
          const int64_t image = task / blocks, first = task % blocks * kBlock;
          const int64_t size = std::min(kBlock, channels - first);
          T* const gradient = feature_gradient + image * cells * channels + first;
          F* target;
          int64_t stride;
          if constexpr (kInPlace) {
            target = gradient;
            stride = channels;
          } else {
            target = sums.data();
            stride = kBlock;
          }
          for (int64_t cell = 0; cell < cells; ++cell) {
            std::fill_n(target + cell * stride, size, F(0));
          }
          for (int64_t bin = image * bins; bin < (image + 1) * bins; ++bin) {
            const T* from = output_gradient + bin * channels + first;
            const int32_t* cell_of = argmax + bin * channels + first;
            if (bin + kBinsAhead < (image + 1) * bins) {
              __builtin_prefetch(from + kBinsAhead * channels);
              __builtin_prefetch(cell_of + kBinsAhead * channels);
            }
            for (int64_t channel = 0; channel < size; ++channel) {
              const int64_t cell = cell_of[channel];
              if (cell < 0 || cell >= cells) continue;
              target[cell * stride + channel] += ToFloat(from[channel]);
            }
          }
          if constexpr (!kInPlace) {
            for (int64_t cell = 0; cell < cells; ++cell) {
              std::transform(target + cell * stride, target + cell * stride + size,
                             gradient + cell * channels, [](F sum) { return FromFloat<T>(sum); });
            }
          }
        }
      });
}

#define KVISION_ROI_POOL(T)                                                                     \
  template void RoiPoolForward<T>(const RoiPoolParameters&, const T*, const RoiPoolBox<T>*, T*, \
                                  int32_t*, ParallelFor);                                       \
  template void RoiPoolBackward<T>(const RoiPoolParameters&, const T*, const int32_t*, T*,      \
                                   ParallelFor);
KVISION_ROI_POOL(Half)
KVISION_ROI_POOL(BFloat16)
KVISION_ROI_POOL(float)
KVISION_ROI_POOL(double)
#undef KVISION_ROI_POOL

}  // namespace kvision
