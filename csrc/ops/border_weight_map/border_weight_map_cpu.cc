// Image after image: strips of columns, then rows, each by themselves.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iterator>
#include <vector>

#include "common/isa.h"
#include "ops/border_weight_map/border_weight_map.h"

namespace kvision {
namespace {

constexpr int64_t kStrip = 32;  // columns

// What is known of a row's pixels, number by number.
template <typename T>
struct PlanesOf {
  T *id, *first, *second;

  PlanesOf<const int32_t> AsConst() const { return {id, first, second}; }
};

// Rows filled up to whole strips.
struct CellsOfImage {
  int32_t* numbers;
  int64_t stride;

  PlanesOf<int32_t> Row(int64_t y) const {
    int32_t* const row = numbers + 3 * stride * y;
    return {row, row + stride, row + 2 * stride};
  }
};

// A row with pixels that no cell is near on both sides.
class PaddedRow {
 public:
  PaddedRow(int64_t width, int64_t margin)
      : width_(width), margin_(margin), stride_(width + 2 * margin), numbers_(3 * stride_) {
    std::fill(numbers_.begin() + stride_, numbers_.end(), kFarSquared);
  }

  void Fill(const PlanesOf<const int32_t>& row) {
    std::copy_n(row.id, width_, numbers_.data() + margin_);
    std::copy_n(row.first, width_, numbers_.data() + margin_ + stride_);
    std::copy_n(row.second, width_, numbers_.data() + margin_ + 2 * stride_);
  }

  PlanesOf<const int32_t> Planes() const {
    const int32_t* const row = numbers_.data() + margin_;
    return {row, row + stride_, row + 2 * stride_};
  }

 private:
  int64_t width_, margin_, stride_;
  std::vector<int32_t> numbers_;
};

}  // namespace
}  // namespace kvision

#define KVISION_ISA_FILE "ops/border_weight_map/border_weight_map_rows.inc"
#include "common/foreach_isa.h"

namespace kvision {
namespace {

struct Loops {
  decltype(&baseline::NearestCellsOfStrip) strip;
  decltype(&baseline::NearestCellsOfRow) row;
  decltype(&baseline::WeighRow) weigh;
};

Loops LoopsForThisProcessor() {
  switch (CurrentIsa()) {
#ifdef __x86_64__
    case Isa::kAvx512:
      return {&avx512::NearestCellsOfStrip, &avx512::NearestCellsOfRow, &avx512::WeighRow};
    case Isa::kAvx2:
      return {&avx2::NearestCellsOfStrip, &avx2::NearestCellsOfRow, &avx2::WeighRow};
#endif
    default:
      return {&baseline::NearestCellsOfStrip, &baseline::NearestCellsOfRow, &baseline::WeighRow};
  }
}

}  // namespace

void BorderWeightMapCpu(const BorderWeightMapParameters& parameters, const int32_t* instances,
                        float* output, ParallelFor parallel_for) {
  constexpr int64_t kWidestVector = 16;
  const auto [height, width] = std::pair(parameters.height, parameters.width);
  if (parameters.batch * height * width == 0) return;
  const Loops loops = LoopsForThisProcessor();
  const int64_t reach = parameters.Reach();
  const int64_t strips = (width + kStrip - 1) / kStrip, stride = strips * kStrip;
  std::vector<int32_t> numbers(3 * stride * height);
  const CellsOfImage cells{numbers.data(), stride};
  for (int64_t image = 0; image < parameters.batch; ++image) {
    const int64_t start = image * height * width;
    parallel_for(strips, 4 * kStrip * height, [&](int64_t begin, int64_t end) {
      for (int64_t strip = begin; strip < end; ++strip) {
        loops.strip(instances + start, height, width, strip, cells);
      }
    });
    parallel_for(height, 30 * width, [&](int64_t begin, int64_t end) {
      PaddedRow row(width, std::min(reach, width - 1) + kWidestVector);
      std::vector<int32_t> first(stride), second(stride);
      for (int64_t y = begin; y < end; ++y) {
        row.Fill(cells.Row(y).AsConst());
        loops.row(row.Planes(), width, reach, first.data(), second.data());
        const int64_t at = start + y * width;
        loops.weigh(parameters, instances + at, first.data(), second.data(), output + at);
      }
    });
  }
}

}  // namespace kvision
