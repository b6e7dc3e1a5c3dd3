// CropMasksCpu and CropMaskRunsCpu against RoIAlign of the mask, unpacked, sample by sample, and
// the same bits on every number of threads.

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "common/threads.h"
#include "fuzz/input.h"
#include "ops/crop_masks/crop_masks.h"

namespace kvision::fuzz {
namespace {

// A mask by its rows; empty where there is none.
using Mask = std::vector<bool>;

Mask MaskOfRuns(const CropMasksParameters& p, const int32_t* runs) {
  const int64_t pixels = p.height * p.width;
  Mask mask(pixels, false);
  int64_t pixel = 0;
  for (int64_t i = 0; i < p.num_runs; ++i) {
    if (runs[i] < 0) return {};
    for (int64_t n = 0; n < runs[i] && pixel < pixels; ++n, ++pixel) {
      mask[pixel % p.height * p.width + pixel / p.height] = i % 2 == 1;
    }
  }
  return mask;
}

double Sample(const CropMasksParameters& p, const Mask& mask, float y, float x) {
  if (!ReadsMap(y, p.height) || !ReadsMap(x, p.width)) return 0;
  const BilinearTaps<float> rows = TapsAt(y, p.height), columns = TapsAt(x, p.width);
  const auto pixel = [&](int64_t row, int64_t column) {
    return mask[row * p.width + column] ? 1.0 : 0.0;
  };
  const auto along = [&](int64_t row) {
    return double{columns.low_weight} * pixel(row, columns.low) +
           double{columns.high_weight} * pixel(row, columns.high);
  };
  return double{rows.low_weight} * along(rows.low) + double{rows.high_weight} * along(rows.high);
}

void Compare(const CropMasksParameters& p, const float* box, const Mask& mask,
             const float* output) {
  const CropMasksGrid grid = CropMasksGridOf(box, p);
  const bool has_extent = box[2] > box[0] && box[3] > box[1];
  const bool is_finite = std::isfinite(box[0]) && std::isfinite(box[1]) &&
                         std::isfinite(box[2] - box[0]) && std::isfinite(box[3] - box[1]);
  Require(grid.valid == (has_extent && is_finite), "which boxes are taken");
  // All samples of larger boxes are too many to visit.
  const bool is_small = grid.rows.count <= 1000 && grid.columns.count <= 1000;
  for (int64_t i = 0; i < p.output_height; ++i) {
    for (int64_t j = 0; j < p.output_width; ++j) {
      const float found = output[i * p.output_width + j];
      if (!grid.valid || mask.empty()) {
        Require(found == 0, "zeros where there is nothing");
        continue;
      }
      Require(found >= 0 && found <= 1.00001f, "a share of a bin");
      if (!is_small) continue;
      const float top = grid.rows.BinStart(i), left = grid.columns.BinStart(j);
      double sum = 0;
      for (float m = 0; m < grid.rows.count; ++m) {
        const float y = grid.rows.Position(top, m);
        if (!ReadsMap(y, p.height)) continue;
        for (float n = 0; n < grid.columns.count; ++n) {
          sum += Sample(p, mask, y, grid.columns.Position(left, n));
        }
      }
      const double wanted = sum / (double{grid.rows.count} * grid.columns.count);
      Require(std::abs(found - wanted) <= 1e-5, "the value of a bin");
    }
  }
}

void CompareAll(const CropMasksParameters& p, const float* boxes, const std::vector<Mask>& masks,
                const Buffer<float>& output) {
  const int64_t bins = p.output_height * p.output_width;
  for (int64_t box = 0; box < p.batch * p.num_boxes; ++box) {
    Compare(p, boxes + 4 * box, masks[box], output.data() + box * bins);
  }
}

}  // namespace
}  // namespace kvision::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace kvision;
  fuzz::Input input(data, size);
  CropMasksParameters p{};
  p.batch = input.Size(2, 3);
  p.num_boxes = input.Size(5, 40);
  p.height = input.Size(20, 60);
  p.width = input.Size(40, 90);
  p.output_height = input.Between(1, 7);
  p.output_width = input.OneIn(8) ? 28 : input.Between(1, 7);
  p.num_instances = input.Size(3, 6);
  p.num_runs = input.Size(12, 100);
  fuzz::Require(CheckCropMasks(p).empty(), "the checks let these numbers through");
  const int64_t number = p.batch * p.num_boxes, pixels = p.height * p.width;
  const auto boxes = fuzz::DrawBoxes<float>(input, number, input.OneOf({5.0, 30.0, 120.0}));
  constexpr int32_t kMost = std::numeric_limits<int32_t>::max();
  fuzz::Buffer<int32_t> rows(input, number);
  for (int32_t& row : rows) {
    row = static_cast<int32_t>(input.Between(-1, std::max<int64_t>(p.num_instances, 1)));
    if (input.OneIn(30)) row = input.OneOf({kMost, -kMost - 1, kMost - 1});
  }
  const int64_t side = input.OneOf({1, 4, 9});
  fuzz::Buffer<int32_t> label_map(input, p.batch * pixels);
  for (int64_t i = 0; i < label_map.size(); ++i) {
    const bool is_new = i % side == 0 || i < p.width;
    label_map[i] = is_new ? static_cast<int32_t>(input.Between(-1, 4)) : label_map[i - 1];
    if (i >= p.width && i / std::max<int64_t>(p.width, 1) % side != 0) {
      label_map[i] = label_map[i - p.width];
    }
  }
  fuzz::Buffer<int32_t> runs(input, p.batch * p.num_instances * p.num_runs);
  const int64_t longest = input.OneOf({2, 10, 300});
  const bool odd = input.OneIn(4);
  for (int32_t& run : runs) {
    run = static_cast<int32_t>(input.Between(0, longest));
    if (odd && input.OneIn(20)) run = input.OneOf({kMost, 0, -1, kMost});
  }

  const int64_t bins = p.output_height * p.output_width;
  const int64_t threads = input.OneOf({2, 3, 7});
  fuzz::Buffer<float> output(input, number * bins), threaded(input, number * bins);
  CropMasksCpu(p, label_map.data(), boxes.data(), rows.data(), output.data(), ThreadsFor(1));
  CropMasksCpu(p, label_map.data(), boxes.data(), rows.data(), threaded.data(),
               ThreadsFor(threads));
  fuzz::Require(output.SameBits(threaded), "the same bits on all threads");
  std::vector<fuzz::Mask> masks(number);
  for (int64_t box = 0; box < number; ++box) {
    if (rows[box] < 0) continue;
    const int32_t* const image = label_map.data() + box / p.num_boxes * pixels;
    for (int64_t i = 0; i < pixels; ++i) masks[box].push_back(image[i] == int64_t{rows[box]} + 1);
  }
  fuzz::CompareAll(p, boxes.data(), masks, output);

  if (pixels == 0) return 0;  // the op does not let it through
  CropMaskRunsCpu(p, runs.data(), boxes.data(), rows.data(), output.data(), ThreadsFor(1));
  CropMaskRunsCpu(p, runs.data(), boxes.data(), rows.data(), threaded.data(), ThreadsFor(threads));
  fuzz::Require(output.SameBits(threaded), "the same bits on all threads");
  for (int64_t box = 0; box < number; ++box) {
    masks[box].clear();
    if (rows[box] < 0 || rows[box] >= p.num_instances) continue;
    const int64_t instance = box / p.num_boxes * p.num_instances + rows[box];
    masks[box] = fuzz::MaskOfRuns(p, runs.data() + instance * p.num_runs);
  }
  fuzz::CompareAll(p, boxes.data(), masks, output);
  return 0;
}
