// Image after image: strips of columns, then bands of rows, each by themselves.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "common/isa.h"
#include "ops/watershed_targets/areas.h"
#include "ops/watershed_targets/watershed_targets.h"

namespace kvision {
namespace {

constexpr int64_t kStrip = 64;  // columns
constexpr int64_t kBand = 16;   // rows
constexpr int64_t kWidestVector = 16;
// A distance within a column that is none; so is one of up to kWatershedTargetsMaxSide rows more.
constexpr int32_t kFarRows = 40000;
// Up to how far pixels are sought one after the other.
constexpr int64_t kFarToLook = 64;
// More than a processor's caches keep until somebody reads it.
constexpr int64_t kBytesPastCaches = int64_t{16} << 20;

// A row with the pixels beside it, as Sobel's filter sees it.
class PaddedRow {
 public:
  explicit PaddedRow(int64_t width)
      : width_(width), ids_(width + 2 * kMargin), distance_(width + 2 * kMargin) {}

  int32_t* ids() { return ids_.data() + kMargin; }
  const int32_t* ids() const { return ids_.data() + kMargin; }
  float* distance() { return distance_.data() + kMargin; }
  const float* distance() const { return distance_.data() + kMargin; }

  void Clear() {
    std::fill(ids_.begin(), ids_.end(), 0);
    std::fill(distance_.begin(), distance_.end(), 0.0f);
  }

  // Beside the row is background, or its last pixels again.
  void Pad(bool framed) {
    for (const auto& [beside, last] : {std::pair<int64_t, int64_t>(-1, 0), {width_, width_ - 1}}) {
      ids()[beside] = framed ? 0 : ids()[last];
      distance()[beside] = framed ? 0.0f : distance()[last];
    }
  }

 private:
  static constexpr int64_t kMargin = kWidestVector + 1;

  int64_t width_;
  std::vector<int32_t> ids_;
  std::vector<float> distance_;
};

// What a row is made in.
class RowScratch {
 public:
  explicit RowScratch(int64_t width)
      : margin_(width + kWidestVector),
        squares_(width + 2 * margin_, kFarSquared),
        columns_(width + 1),
        level_(margin_),
        direction_(2 * margin_),
        weight_(margin_) {}

  // Of a row's columns; far on both sides of it.
  int32_t* squares() { return squares_.data() + margin_; }
  int32_t* columns() { return columns_.data(); }
  int32_t* level() { return level_.data(); }
  float* direction() { return direction_.data(); }
  float* weight() { return weight_.data(); }

 private:
  int64_t margin_;
  std::vector<int32_t> squares_, columns_, level_;
  std::vector<float> direction_, weight_;
};

}  // namespace
}  // namespace kvision

#define KVISION_ISA_FILE "ops/watershed_targets/watershed_targets_rows.inc"
#include "common/foreach_isa.h"

namespace kvision {
namespace {

struct Loops {
  decltype(&baseline::ColumnsOfStrip) columns;
  decltype(&baseline::DistancesOfRow) distances;
  decltype(&baseline::DirectionsOfRow) directions;
  decltype(&baseline::PutRow) put;
  decltype(&baseline::Fence) fence;
};

Loops LoopsForThisProcessor() {
  switch (CurrentIsa()) {
#ifdef __x86_64__
    case Isa::kAvx512:
      return {&avx512::ColumnsOfStrip, &avx512::DistancesOfRow, &avx512::DirectionsOfRow,
              &avx512::PutRow, &avx512::Fence};
    case Isa::kAvx2:
      return {&avx2::ColumnsOfStrip, &avx2::DistancesOfRow, &avx2::DirectionsOfRow, &avx2::PutRow,
              &avx2::Fence};
#endif
    default:
      return {&baseline::ColumnsOfStrip, &baseline::DistancesOfRow, &baseline::DirectionsOfRow,
              &baseline::PutRow, &baseline::Fence};
  }
}

// One image, after its columns: rows in their order, each from the strips.
class Rows {
 public:
  Rows(const WatershedTargetsParameters& parameters, const Loops& loops, bool framed,
       const int32_t* image, const uint16_t* strips, const Areas& areas,
       const WatershedTargets& targets)
      : parameters_(parameters),
        loops_(loops),
        framed_(framed),
        image_(image),
        strips_(strips),
        areas_(areas),
        targets_(targets),
        height_(parameters.height),
        width_(parameters.width),
        past_caches_(parameters.batch * height_ * width_ * (targets.distance_alone() ? 4 : 20) >
                     kBytesPastCaches) {}

  void Run(int64_t begin, int64_t end) const {
    RowScratch scratch(width_);
    PaddedRow rows[] = {PaddedRow(width_), PaddedRow(width_), PaddedRow(width_)};
    if (targets_.distance_alone()) {
      for (int64_t y = begin; y < end; ++y) Fill(y, true, scratch, rows[0]);
      return loops_.fence();
    }
    // Rows beside these are computed for the filter, and belong to another thread.
    FillAround(begin - 1, scratch, rows[0]);
    Fill(begin, true, scratch, rows[1]);
    for (int64_t y = begin; y < end; ++y) {
      const int64_t at = y - begin;
      PaddedRow& below = rows[(at + 2) % 3];
      if (y + 1 < end) {
        Fill(y + 1, true, scratch, below);
      } else {
        FillAround(y + 1, scratch, below);
      }
      loops_.directions(rows[at % 3], rows[(at + 1) % 3], below, width_, parameters_.level_edges,
                        scratch.direction(), scratch.level());
      Put(scratch.direction(), 2 * width_, targets_.direction + 2 * y * width_);
      Put(scratch.level(), width_, targets_.level + y * width_);
    }
    loops_.fence();
  }

 private:
  void Put(const void* row, int64_t number, void* output) const {
    loops_.put(row, number, past_caches_, output);
  }

  // Row y, put out or not.
  void Fill(int64_t y, bool out, RowScratch& scratch, PaddedRow& row) const {
    std::copy_n(image_ + y * width_, width_, row.ids());
    const bool with_weight = out && !targets_.distance_alone();
    loops_.distances(parameters_, framed_, strips_ + y * kStrip, areas_, scratch, row.ids(),
                     row.distance(), with_weight ? scratch.weight() : nullptr);
    row.Pad(framed_);
    if (out) Put(row.distance(), width_, targets_.distance + y * width_);
    if (with_weight) Put(scratch.weight(), width_, targets_.weight + y * width_);
  }

  // Row y, which may lie beside the image.
  void FillAround(int64_t y, RowScratch& scratch, PaddedRow& row) const {
    if (framed_ && (y < 0 || y == height_)) {
      row.Clear();
    } else {
      Fill(std::clamp<int64_t>(y, 0, height_ - 1), false, scratch, row);
    }
  }

  const WatershedTargetsParameters& parameters_;
  const Loops& loops_;
  const bool framed_;
  const int32_t* const image_;
  const uint16_t* const strips_;
  const Areas& areas_;
  const WatershedTargets& targets_;
  const int64_t height_, width_;
  const bool past_caches_;
};

}  // namespace

void WatershedTargetsCpu(const WatershedTargetsParameters& parameters, const int32_t* instances,
                         const WatershedTargets& targets, ParallelFor parallel_for) {
  const int64_t height = parameters.height, width = parameters.width, size = height * width;
  if (parameters.batch * size == 0) return;
  const Loops loops = LoopsForThisProcessor();
  const int64_t strips = (width + kStrip - 1) / kStrip, bands = (height + kBand - 1) / kBand;
  const std::unique_ptr<uint16_t[]> columns(new uint16_t[strips * height * kStrip]);
  for (int64_t i = 0; i < parameters.batch; ++i) {
    const int32_t* const image = instances + i * size;
    const bool framed =
        parameters.image_border_is_outside ||
        std::all_of(image, image + size, [image](int32_t id) { return id == *image; });
    Areas areas;
    std::mutex mutex;
    parallel_for(strips, 2 * kStrip * height, [&](int64_t begin, int64_t end) {
      Areas seen;
      for (int64_t strip = begin; strip < end; ++strip) {
        loops.columns(image, height, width, strip * kStrip, framed,
                      columns.get() + strip * height * kStrip,
                      targets.distance_alone() ? nullptr : &seen);
      }
      const std::lock_guard<std::mutex> lock(mutex);
      areas.Add(seen);
    });
    WatershedTargets of_image = {targets.distance + i * size};
    if (!targets.distance_alone()) {
      of_image = {of_image.distance, targets.direction + 2 * i * size, targets.level + i * size,
                  targets.weight + i * size};
    }
    const Rows rows(parameters, loops, framed, image, columns.get(), areas, of_image);
    parallel_for(bands, 10 * kBand * width, [&](int64_t begin, int64_t end) {
      rows.Run(begin * kBand, std::min(end * kBand, height));
    });
  }
}

}  // namespace kvision
