// PasteMasksCpu and PasteMaskRunsCpu against the rules, pixel by pixel, to the bit, and the same on
// every number of threads.

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "common/threads.h"
#include "fuzz/input.h"
#include "ops/paste_masks/paste_masks.h"

namespace kvision::fuzz {
namespace {

// Where on the mask a pixel reads, counted from the zero before the first cell; 0 where nothing.
float PositionOf(float low, float high, int64_t cells, int64_t pixel, PasteRule rule) {
  const auto number = static_cast<float>(cells), at = static_cast<float>(pixel);
  if (!std::isfinite(high - low) || !(high > low) || cells == 0) return 0;
  float position;
  if (rule == PasteRule::kDetectron2) {
    position = (at + 0.5f - low) / (high - low) * number + 0.5f;
  } else {
    const float half = (high - low) * 0.5f * ((number + 2.0f) / number);
    const float centre = (high + low) * 0.5f;
    const float first = std::trunc(centre - half), last = std::trunc(centre + half);
    if (!(at >= first && at <= last)) return 0;
    position = (at - first + 0.5f) * ((number + 2.0f) / (last - first + 1.0f)) - 0.5f;
  }
  return position > 0 && position < number + 1.0f ? position : 0;
}

std::vector<bool> MaskOf(const PasteMasksParameters& p, const float* mask, const float* box) {
  std::vector<bool> pixels(p.height * p.width, false);
  const auto cell = [&](int64_t row, int64_t column) {
    const bool inside = row > 0 && row <= p.mask_height && column > 0 && column <= p.mask_width;
    return inside ? mask[(row - 1) * p.mask_width + column - 1] : 0.0f;
  };
  for (int64_t y = 0; y < p.height; ++y) {
    const float row_position = PositionOf(box[1], box[3], p.mask_height, y, p.rule);
    if (row_position == 0) continue;
    const auto row = static_cast<int64_t>(row_position);
    const float down = row_position - static_cast<float>(row);
    for (int64_t x = 0; x < p.width; ++x) {
      const float position = PositionOf(box[0], box[2], p.mask_width, x, p.rule);
      if (position == 0) continue;
      const auto column = static_cast<int64_t>(position);
      const float right = position - static_cast<float>(column);
      const float upper = cell(row, column) * (1.0f - right) + cell(row, column + 1) * right;
      const float lower =
          cell(row + 1, column) * (1.0f - right) + cell(row + 1, column + 1) * right;
      pixels[y * p.width + x] = upper * (1.0f - down) + lower * down >= p.threshold;
    }
  }
  return pixels;
}

void CompareRuns(const PasteMasksParameters& p, const std::vector<bool>& mask,
                 const int32_t* runs) {
  std::vector<int32_t> wanted(1, 0);
  bool is_mask = false;
  for (int64_t pixel = 0; pixel < p.height * p.width; ++pixel) {
    const bool here = mask[pixel % p.height * p.width + pixel / p.height];
    if (here != is_mask) wanted.push_back(0);
    is_mask = here;
    ++wanted.back();
  }
  const bool fits = static_cast<int64_t>(wanted.size()) <= p.num_runs;
  wanted.resize(p.num_runs, 0);
  if (!fits) std::fill(wanted.begin(), wanted.end(), -1);
  Require(std::equal(wanted.begin(), wanted.end(), runs), "the runs of a mask");
}

}  // namespace
}  // namespace kvision::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace kvision;
  fuzz::Input input(data, size);
  PasteMasksParameters p{};
  p.batch = input.Size(2, 3);
  p.num_boxes = input.Size(5, 30);
  p.mask_height = input.Size(7, 28);
  p.mask_width = input.Size(7, 28);
  p.height = std::max<int64_t>(input.Size(20, 80), 1);
  p.width = std::max<int64_t>(input.Size(40, 90), 1);
  const auto any = static_cast<float>(input.Unit()) + 0x1p-126f;
  p.threshold = input.OneOf({0.5f, 0.5f, 0.25f, 1.0f, any, 0x1p-126f, 3e38f});
  p.rule = input.OneIn(2) ? PasteRule::kTorchvision : PasteRule::kDetectron2;
  p.num_runs = input.OneOf<int64_t>({1, 9, 2 * p.width + 1, p.width * p.height + 1});
  fuzz::Require(CheckPasteMasks(p).empty(), "the checks let these numbers through");
  const int64_t number = p.batch * p.num_boxes, cells = p.mask_height * p.mask_width;
  const int64_t pixels = p.height * p.width;
  const auto boxes = fuzz::DrawBoxes<float>(input, number, input.OneOf({5.0, 30.0, 120.0}));
  const auto masks = fuzz::DrawNumbers<float>(input, number * cells, 1);

  const int64_t threads = input.OneOf({2, 3, 7});
  fuzz::Buffer<int32_t> label_map(input, p.batch * pixels), threaded(input, p.batch * pixels);
  PasteMasksCpu(p, masks.data(), boxes.data(), label_map.data(), ThreadsFor(1));
  PasteMasksCpu(p, masks.data(), boxes.data(), threaded.data(), ThreadsFor(threads));
  fuzz::Require(label_map.SameBits(threaded), "the same label map on all threads");
  fuzz::Buffer<int32_t> runs(input, number * p.num_runs), same(input, number * p.num_runs);
  PasteMaskRunsCpu(p, masks.data(), boxes.data(), runs.data(), ThreadsFor(1));
  PasteMaskRunsCpu(p, masks.data(), boxes.data(), same.data(), ThreadsFor(threads));
  fuzz::Require(runs.SameBits(same), "the same runs on all threads");

  for (int64_t image = 0; image < p.batch; ++image) {
    std::vector<int32_t> wanted(pixels, 0);
    for (int64_t row = p.num_boxes; row-- > 0;) {
      const int64_t box = image * p.num_boxes + row;
      const auto mask = fuzz::MaskOf(p, masks.data() + box * cells, boxes.data() + 4 * box);
      fuzz::CompareRuns(p, mask, runs.data() + box * p.num_runs);
      for (int64_t i = 0; i < pixels; ++i) {
        if (mask[i]) wanted[i] = static_cast<int32_t>(row + 1);
      }
    }
    fuzz::Require(std::equal(wanted.begin(), wanted.end(), label_map.begin() + image * pixels),
                  "the label map");
  }
  return 0;
}
