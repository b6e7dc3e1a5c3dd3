// The masks of boxes, each stretched to its box, pasted into images: the last step of Mask R-CNN
// (He, Gkioxari, Dollár, Girshick, 2017).
//
//   masks     (batch, num_boxes, mask_height, mask_width) float
//   boxes     (batch, num_boxes, 4), x1 y1 x2 y2 in pixels, float
//   output    a label map (batch, height, width) int32: r + 1 where a pixel is of the instance of
//             row r, of the first such row; 0 for none. Or run lengths (batch, num_boxes, num_runs)
//             int32: of each instance, its pixels column after column, so many zeros, so many ones,
//             so many zeros, ..., and zeros at the end; -1 throughout where a mask takes more than
//             num_runs of them.
//
// A pixel is of an instance where the mask, interpolated between its cells, is at least
// `threshold`. By which positions on the mask a pixel reads is the rule:
//   - detectron2: the centre of the pixel, where cells are equal parts of the box. Cells reach to
//     the centres of the next, and the outermost as far beyond the box, falling to 0.
//   - torchvision: a border of zeros of one cell around mask and box; the corners of the box so
//     grown are truncated to integers, and count as pixels of it.
//   - A box of no or negative extent, or with a corner or an extent that is not finite: nothing. A
//     value that is NaN is below every threshold.
//   - Interpolated first along x, then along y, rounding every product and every sum: label map,
//     run lengths, CPU and CUDA agree on every pixel.
//   - Any size may be zero.
//
// The output does not depend on the number of threads. Memory beside it: a thread has, for a box
// that is w by h pixels large on the image, 8 (w + h) + 4 w (mask_height + 2) bytes; with CUDA it
// takes 64 bytes a box.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>

#include "common/bilinear.h"
#include "common/host_device.h"
#include "common/parallel.h"
#include "common/shapes.h"

namespace kvision {

enum class PasteRule { kDetectron2, kTorchvision };

struct PasteMasksParameters {
  int64_t batch, num_boxes;
  int64_t mask_height, mask_width;
  int64_t height, width;
  float threshold;
  PasteRule rule;
  int64_t num_runs;  // of run lengths
};

// What is wrong with the numbers, or nothing.
inline std::string CheckPasteMasks(const PasteMasksParameters& parameters) {
  constexpr int64_t kLimit = int64_t{1} << 31;
  const int64_t height = parameters.height, width = parameters.width;
  if (height < 1 || width < 1) {
    return Complaint("paste_masks", "`height` and `width` must be positive. Received: ", height,
                     " and ", width, ".");
  }
  if (height > (kLimit - 1) / width) {
    return Complaint("paste_masks", "an image must have fewer than 2^31 pixels. Received: ", height,
                     " by ", width, ".");
  }
  // Subnormal ones round by more than the margin of the kernels.
  if (!(std::isnormal(parameters.threshold) && parameters.threshold > 0.0f)) {
    return Complaint("paste_masks",
                     "`threshold` must be positive and finite. Received: ", parameters.threshold,
                     ".");
  }
  return {};
}

// One axis of one box: where on the mask the pixels [first, last) along it read. Positions are
// counted in cells, from the centre of a zero before the first cell: they lie in (0, cells + 1).
struct PasteAxis {
  // A position is ((pixel - origin) + 1/2) * cells / extent + offset, in the order of the rule.
  float origin, extent, cells;
  PasteRule rule;
  int64_t first, last;

  KVISION_HOST_DEVICE float Position(int64_t pixel) const {
    const auto at = static_cast<float>(pixel);
    if (rule == PasteRule::kDetectron2) {
      return Multiply((at + 0.5f - origin) / extent, cells) + 0.5f;
    }
    return Multiply(at - origin + 0.5f, (cells + 2.0f) / extent) - 0.5f;
  }
};

// `low` and `high` are the ends of the box along an axis of `size` pixels.
KVISION_HOST_DEVICE inline PasteAxis PasteAxisOf(float low, float high, int64_t mask_cells,
                                                 int64_t size, PasteRule rule) {
  const auto cells = static_cast<float>(mask_cells);
  PasteAxis axis{low, high - low, cells, rule, 0, 0};
  const bool has_extent =
      std::isfinite(low) && std::isfinite(axis.extent) && axis.extent > 0.0f && mask_cells > 0;
  if (!has_extent) return axis;
  float from, to;  // no pixel outside of them reads
  if (rule == PasteRule::kDetectron2) {
    const float reach = axis.extent / cells + 2.0f;
    from = low - reach, to = high + reach;
  } else {
    const float half = Multiply(Multiply(high - low, 0.5f), (cells + 2.0f) / cells);
    const float centre = Multiply(high + low, 0.5f);
    from = std::trunc(centre - half), to = std::trunc(centre + half);
    axis.origin = from;
    axis.extent = to - from + 1.0f;
  }
  const auto end = static_cast<float>(size);
  if (!(to >= 0.0f && from < end)) return axis;
  axis.first = from > 0.0f ? static_cast<int64_t>(from) : 0;
  axis.last = to < end - 1.0f ? static_cast<int64_t>(to) + 1 : size;
  // Positions only grow with the pixels.
  while (axis.first < axis.last && !(axis.Position(axis.first) > 0.0f)) ++axis.first;
  while (axis.first < axis.last && !(axis.Position(axis.last - 1) < cells + 1.0f)) --axis.last;
  return axis;
}

// Both axes of a box, its four corners; empty ones if it pastes nothing.
struct PasteGrid {
  PasteAxis rows, columns;
};

KVISION_HOST_DEVICE inline PasteGrid PasteGridOf(const float* box,
                                                 const PasteMasksParameters& parameters) {
  PasteGrid grid{
      PasteAxisOf(box[1], box[3], parameters.mask_height, parameters.height, parameters.rule),
      PasteAxisOf(box[0], box[2], parameters.mask_width, parameters.width, parameters.rule)};
  const bool is_empty =
      grid.rows.first >= grid.rows.last || grid.columns.first >= grid.columns.last;
  if (is_empty) grid.rows.last = grid.rows.first = grid.columns.last = grid.columns.first = 0;
  return grid;
}

void PasteMasksCpu(const PasteMasksParameters& parameters, const float* masks, const float* boxes,
                   int32_t* label_map, ParallelFor parallel_for);
void PasteMaskRunsCpu(const PasteMasksParameters& parameters, const float* masks,
                      const float* boxes, int32_t* runs, ParallelFor parallel_for);

// The same on the device of the stream (a cudaStream_t), with PasteMasksCudaWorkspace bytes of its
// memory. They return null, or what CUDA says is wrong.
int64_t PasteMasksCudaWorkspace(const PasteMasksParameters& parameters);
const char* PasteMasksCuda(const PasteMasksParameters& parameters, const float* masks,
                           const float* boxes, int32_t* label_map, void* workspace, void* stream);
const char* PasteMaskRunsCuda(const PasteMasksParameters& parameters, const float* masks,
                              const float* boxes, int32_t* runs, void* workspace, void* stream);

}  // namespace kvision
