// Image after image: strips of columns, then rows, each by themselves.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iterator>
#include <memory>
#include <vector>

#include "common/isa.h"
#include "ops/border_weight_map/border_weight_map.h"

namespace kvision {
namespace {

constexpr int64_t kStrip = 64;  // columns
constexpr int64_t kWidestVector = 16;

// What the pixels of one row of a strip know of the cells within their columns. Those of a strip
// lie one after the other.
struct StripRow {
  int32_t id[kStrip], first[kStrip], second[kStrip];
};

// A row of all strips, with pixels on both sides that no cell is near.
class PaddedRow {
 public:
  PaddedRow(int64_t strips, int64_t margin)
      : strips_(strips), stride_(strips * kStrip + 2 * margin), numbers_(3 * stride_, kFarSquared) {
    id_ = numbers_.data() + margin;
  }

  // From the same row of the first strip; strips are `height` rows apart.
  void Fill(const StripRow* row, int64_t height) {
    for (int64_t strip = 0; strip < strips_; ++strip, row += height) {
      int32_t* const to = id_ + strip * kStrip;
      std::copy_n(row->id, kStrip, to);
      std::copy_n(row->first, kStrip, to + stride_);
      std::copy_n(row->second, kStrip, to + 2 * stride_);
    }
  }

  const int32_t* id() const { return id_; }
  const int32_t* first() const { return id_ + stride_; }
  const int32_t* second() const { return id_ + 2 * stride_; }

 private:
  int64_t strips_, stride_;
  std::vector<int32_t> numbers_;
  int32_t* id_;
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
  const int64_t height = parameters.height, width = parameters.width;
  if (parameters.batch * height * width == 0) return;
  const Loops loops = LoopsForThisProcessor();
  const int64_t reach = parameters.Reach();
  const int64_t strips = (width + kStrip - 1) / kStrip;
  const std::unique_ptr<StripRow[]> rows(new StripRow[strips * height]);
  for (int64_t image = 0; image < parameters.batch; ++image) {
    const int64_t start = image * height * width;
    parallel_for(strips, 4 * kStrip * height, [&](int64_t begin, int64_t end) {
      for (int64_t strip = begin; strip < end; ++strip) {
        loops.strip(instances + start, height, width, strip * kStrip, rows.get() + strip * height);
      }
    });
    parallel_for(height, 30 * width, [&](int64_t begin, int64_t end) {
      PaddedRow row(strips, std::min(reach, width - 1) + kWidestVector);
      std::vector<int32_t> first(strips * kStrip), second(strips * kStrip);
      for (int64_t y = begin; y < end; ++y) {
        row.Fill(rows.get() + y, height);
        loops.row(row, width, reach, first.data(), second.data());
        const int64_t at = start + y * width;
        loops.weigh(parameters, instances + at, first.data(), second.data(), output + at);
      }
    });
  }
}

}  // namespace kvision
