// The masks of instances, cropped to boxes: the targets of Mask R-CNN (He, Gkioxari, Dollár,
// Girshick, 2017), sampled as torchvision's project_masks_on_boxes.
//
//   masks    a label map (batch, height, width) int32: r + 1 where a pixel belongs to the instance
//            of row r; or run lengths (batch, num_instances, num_runs) int32: of each instance, its
//            pixels column after column, so many zeros, so many ones, so many zeros, ...
//   boxes    (batch, num_boxes, 4), x1 y1 x2 y2 in pixels, float
//   rows     (batch, num_boxes) int32: of the instance whose mask a box is to get
//   output   (batch, num_boxes, output_height, output_width) float
//
// RoIAlign of the mask as an image of zeros and ones: not aligned, with the adaptive grid.
//   - Zeros: a box of no or negative extent, or with a corner or an extent that is not finite; a
//     row below 0, or that there is none of; run lengths of which one is negative.
//   - A sample at most one pixel outside the image reads the border pixel; one farther off counts
//     as zero.
//   - Zeros at the end of run lengths are padding. What is beyond the last pixel is passed
//     over; pixels after the last run are background.
//   - Any size may be zero, and then there is nothing to do.
// The output does not depend on the number of threads. Memory beside it: a thread has, for a box
// w by h pixels large on the image, (w output_width + h output_height) floats; with CUDA, run
// lengths take a copy of themselves.
//
// How: RoIAlign is separable. Along a line of pixels, which is a row of a label map and a column of
// run lengths, what a bin gets from a run of the mask is a difference of two sums of weights that
// were made once a box. So a line costs as many steps as it has runs, and no mask is unpacked.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>

#include "common/host_device.h"
#include "common/parallel.h"
#include "common/roi_align_axis.h"
#include "common/shapes.h"

namespace kvision {

struct CropMasksParameters {
  int64_t batch, num_boxes;
  int64_t height, width;
  int64_t output_height, output_width;
  int64_t num_instances, num_runs;  // of run lengths
};

// What is wrong with the numbers, or nothing. Sizes may be unknown.
inline std::string CheckCropMasks(const CropMasksParameters& parameters) {
  constexpr int64_t kLimit = int64_t{1} << 31;
  const int64_t height = parameters.height, width = parameters.width;
  if (parameters.output_height < 1 || parameters.output_width < 1) {
    return Complaint("crop_masks",
                     "`output_height` and `output_width` must be positive. Received: ",
                     parameters.output_height, " and ", parameters.output_width, ".");
  }
  if (height > 0 && width > 0 && height > (kLimit - 1) / width) {
    return Complaint("crop_masks", "an image must have fewer than 2^31 pixels. Received: ", height,
                     " by ", width, ".");
  }
  return {};
}

struct CropMasksGrid {
  RoiAlignAxis<float> rows, columns;
  bool valid;
};

// `box` is its four corners.
KVISION_HOST_DEVICE inline CropMasksGrid CropMasksGridOf(const float* box,
                                                         const CropMasksParameters& parameters) {
  float width = box[2] - box[0], height = box[3] - box[1];
  const bool valid = width > 0.0f && height > 0.0f && std::isfinite(width) &&
                     std::isfinite(height) && std::isfinite(box[0]) && std::isfinite(box[1]);
  width = width > 1.0f ? width : 1.0f;
  height = height > 1.0f ? height : 1.0f;
  return {MakeRoiAlignAxis(box[1], height, parameters.output_height, 0, parameters.height),
          MakeRoiAlignAxis(box[0], width, parameters.output_width, 0, parameters.width), valid};
}

void CropMasksCpu(const CropMasksParameters& parameters, const int32_t* label_map,
                  const float* boxes, const int32_t* rows, float* output, ParallelFor parallel_for);
void CropMaskRunsCpu(const CropMasksParameters& parameters, const int32_t* runs, const float* boxes,
                     const int32_t* rows, float* output, ParallelFor parallel_for);

// The same on the device of the stream (a cudaStream_t); run lengths with
// CropMaskRunsCudaWorkspace bytes of its memory. They return null, or what CUDA says is wrong.
const char* CropMasksCuda(const CropMasksParameters& parameters, const int32_t* label_map,
                          const float* boxes, const int32_t* rows, float* output, void* stream);
int64_t CropMaskRunsCudaWorkspace(const CropMasksParameters& parameters);
const char* CropMaskRunsCuda(const CropMasksParameters& parameters, const int32_t* runs,
                             const float* boxes, const int32_t* rows, float* output,
                             void* workspace, void* stream);

}  // namespace kvision
