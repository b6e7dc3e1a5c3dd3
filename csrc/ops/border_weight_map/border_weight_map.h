// The weight map of U-Net (Ronneberger, Fischer, Brox, 2015): pixels between touching cells weigh
// more.
//
//   instances  (batch, height, width) int32: a cell's id, greater than 0, or background
//   output     (batch, height, width) float: w_c + w_0 exp(-(d1 + d2)^2 / (2 sigma^2))
//
// w_c is the weight of background or foreground. d1 and d2 are the distances of the pixel, in a
// cell or not, to the borders of the nearest and the second nearest cell, between pixel centres and
// exact. Pixels of one id are one cell, connected or not. Its border are those of its pixels that
// have, of their four neighbours inside the image, one with another id, background or cell.
//   - Fewer than two cells in an image: the second term is 0. A cell that fills the image has no
//     border, and is alone.
//   - The second term is 0 too where its exponent is below -87, at the end of float's range.
//   - The distances are squares of integers, and float from their roots on.
//   - Any size may be zero, and then there is nothing to do.
//
// The output does not depend on the number of threads. Memory beside it: 12 bytes a pixel, on the
// CPU those of one image.
//
// How: a pixel keeps of all cells the nearest one's id and two distances (NearestCells), first
// within its column, then within its row of such. A row needs no more of a column: where the
// second nearest of all cells is reached through a column, that column's nearest two are two cells
// no farther, or it has one cell alone and another column gives the other.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>

#include "common/parallel.h"
#include "common/shapes.h"

namespace kvision {

// No cell: more than the square of any distance in an image, and its root.
constexpr int32_t kFarSquared = 1 << 30, kFar = 1 << 15;
// 2 (kMaxSide - 1)^2 < kFarSquared.
constexpr int64_t kBorderWeightMapMaxSide = 23170;
constexpr float kGreatestExponent = 87.0f;

struct BorderWeightMapParameters {
  int64_t batch, height, width;
  float background_weight, foreground_weight;
  float border_weight;
  float sigma;

  // (d1 + d2) * Scale() squared is the exponent.
  float Scale() const { return static_cast<float>(1.0 / (std::sqrt(2.0) * double{sigma})); }

  // A distance of which d1 + d2 > Reach() may be said to change no bit of the output: the second
  // term is 0, or less than half of the last bit of the first.
  int32_t Reach() const {
    const double least = std::min(background_weight, foreground_weight) * 0x1p-26;
    const double exponent = std::log(border_weight / least) + 1e-3;  // infinite where least is 0
    const double greatest = kGreatestExponent + 1e-3;
    const double reach =
        std::sqrt(2 * std::max(std::min(exponent, greatest), 0.0)) * double{sigma} + 1;
    return border_weight > 0 ? static_cast<int32_t>(std::min<double>(reach, 2 * kFar)) : 0;
  }
};

// What is wrong with the numbers, or nothing.
inline std::string CheckBorderWeightMap(const BorderWeightMapParameters& parameters) {
  const auto is_weight = [](float value) { return value >= 0.0f && std::isfinite(value); };
  if (!is_weight(parameters.background_weight) || !is_weight(parameters.foreground_weight)) {
    return Complaint("border_weight_map",
                     "`class_weights` must be two finite numbers of at least 0. Received: ",
                     parameters.background_weight, " and ", parameters.foreground_weight, ".");
  }
  if (!is_weight(parameters.border_weight)) {
    return Complaint(
        "border_weight_map",
        "`border_weight` must be finite and at least 0. Received: ", parameters.border_weight, ".");
  }
  if (!(parameters.sigma > 0.0f && std::isfinite(parameters.sigma))) {
    return Complaint("border_weight_map",
                     "`sigma` must be positive and finite. Received: ", parameters.sigma, ".");
  }
  if (std::max(parameters.height, parameters.width) > kBorderWeightMapMaxSide) {
    return Complaint("border_weight_map", "an image must be at most ", kBorderWeightMapMaxSide,
                     " pixels high and wide. Received: ", parameters.height, " by ",
                     parameters.width, ".");
  }
  return {};
}

void BorderWeightMapCpu(const BorderWeightMapParameters& parameters, const int32_t* instances,
                        float* output, ParallelFor parallel_for);

// The same on the device of the stream (a cudaStream_t), with BorderWeightMapCudaWorkspace bytes of
// its memory. Returns null, or what CUDA says is wrong.
int64_t BorderWeightMapCudaWorkspace(const BorderWeightMapParameters& parameters);
const char* BorderWeightMapCuda(const BorderWeightMapParameters& parameters,
                                const int32_t* instances, float* output, void* workspace,
                                void* stream);

}  // namespace kvision
