// Instances of an energy map, as deep watershed cuts them (Bai, Urtasun, 2017, and the code
// published with it).
//
//   energy       (batch, height, width) int32: levels that rise from an instance's border inwards
//   semantic     (batch, height, width) int32 or none: classes from 1, or background; without it
//                all pixels are of class 1
//   grow_within  (batch, height, width) bool or none: where instances may grow to
//   instances    (batch, height, width) int32: ids from 1, or 0 for background
//
// Class after class, with the numbers of the class:
//   1. The foreground is where energy > cut among the pixels of the class.
//   2. Of its components by sides, those of fewer than min_area pixels are removed.
//   3. Of the components of what is not foreground, by sides where `connectivity` is 8 and else by
//      corners too, those of fewer than fill_holes pixels are filled: at the edge of the image and
//      over pixels of other classes, too. Where there is no foreground in an image, none is.
//   4. The components of the foreground, by `connectivity`, are the instances of the class.
//   5. Each has all pixels within `grow` rows and columns of its own (that are in grow_within), in
//      raster order of their first pixels, later ones over earlier and over those of earlier
//      classes. Its own pixels are painted with it, in grow_within or not; where instances of a
//      class overlap outside of it, they stay the owner's.
// In the end ids are given in raster order of the first pixels that are left of the instances;
// one that is painted over has none. Any size may be zero, and then there is nothing to do.
//
// The output does not depend on the number of threads. Memory beside it: on the CPU 4 bytes a pixel
// and what components take; on a GPU 17 bytes a pixel.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "common/components.h"
#include "common/parallel.h"

namespace kvision {

struct WatershedInstancesParameters {
  int64_t batch, height, width;
  int64_t connectivity;  // 4 or 8
  int64_t fill_holes;
  // Of every class, from class 1 on.
  std::vector<int64_t> cut, min_area, grow;
};

// Of numbers of one kind, or nothing.
inline std::string CheckWatershedNumbers(const char* name, const std::vector<int64_t>& numbers,
                                         int64_t least) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  for (const int64_t number : numbers) {
    if (number < least || number > kMost) {
      return Complaint("watershed_instances", "`", name, "` must be between ", least, " and ",
                       kMost, ". Received: ", number, ".");
    }
  }
  return {};
}

void WatershedInstancesCpu(const WatershedInstancesParameters& parameters, const int32_t* energy,
                           const int32_t* semantic, const bool* grow_within, int32_t* instances,
                           ParallelFor parallel_for);

// The same on the device of the stream (a cudaStream_t), with WatershedInstancesCudaWorkspace bytes
// of its memory. Returns null, or what CUDA says is wrong.
int64_t WatershedInstancesCudaWorkspace(const WatershedInstancesParameters& parameters);
const char* WatershedInstancesCuda(const WatershedInstancesParameters& parameters,
                                   const int32_t* energy, const int32_t* semantic,
                                   const bool* grow_within, int32_t* instances, void* workspace,
                                   void* stream);

}  // namespace kvision
