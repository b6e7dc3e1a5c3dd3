// Overlaps of boxes: IoU and, after it, what tells boxes apart that do not meet.
//
//   boxes1  (batch, num_boxes1, 4): x1 y1 x2 y2
//   boxes2  (batch, num_boxes2, 4), in the same unit
//   output  (batch, num_boxes1, num_boxes2) pairwise; elementwise (batch, num_boxes1), of the boxes
//           at equal places, and num_boxes2 is num_boxes1
//
// With I the area of the intersection, U of the union, and C the smallest box around both:
//   iou   I / U
//   giou  iou - (|C| - U) / |C|                              (Rezatofighi et al., 2019)
//   diou  iou - (distance of the centres / diagonal of C)^2  (Zheng et al., 2020)
//   ciou  diou - a v                                         (Zheng et al., 2020)
//         v = (4 / pi^2) (angle2 - angle1)^2, a = v / (1 - iou + v)
//         where the angle of a box is atan(width / height)
//   - A side that is reversed has length 0.
//   - A fraction whose denominator is 0 is 0, and so is the angle of a box of no size.
//   - A box with a NaN or infinite corner, or with an area that overflows: NaN, no gradient.
// Gradients flow to both boxes; a is a constant in them, as its authors have it. Where two edges
// coincide each has half of the gradient. What only touches has no intersection and none of its
// gradient. Every sum has one order, whatever the number of threads; that of a gradient depends on
// the width of the instruction set's vectors. No memory is taken beside the output but a few blocks
// of boxes a thread.
#pragma once

#include <cstdint>
#include <string>

#include "common/parallel.h"
#include "common/shapes.h"

namespace kvision {

enum class IouKind { kIou, kGiou, kDiou, kCiou };

// Who speaks in an error: the function that was called.
inline const char* BoxIouName(bool pairwise) {
  return pairwise ? "pairwise_iou" : "elementwise_iou";
}

// Whether `name` is "iou", "giou", "diou" or "ciou"; which goes to *kind.
inline std::string ParseIouKind(const std::string& name, bool pairwise, IouKind* kind) {
  const char* const names[] = {"iou", "giou", "diou", "ciou"};
  for (int i = 0; i < 4; ++i) {
    if (name == names[i]) {
      *kind = static_cast<IouKind>(i);
      return {};
    }
  }
  return Complaint(BoxIouName(pairwise), "`kind` must be iou, giou, diou or ciou. Received: ", name,
                   ".");
}

// Elementwise, num_boxes2 is num_boxes1.
struct BoxIouParameters {
  int64_t batch, num_boxes1, num_boxes2;
  IouKind kind;
  bool pairwise;
};

// F is float or double.
template <typename F>
void BoxIouForward(const BoxIouParameters& parameters, const F* boxes1, const F* boxes2, F* output,
                   ParallelFor parallel_for);

// Writes the whole of both gradients, of the shapes of the boxes.
template <typename F>
void BoxIouBackward(const BoxIouParameters& parameters, const F* output_gradient, const F* boxes1,
                    const F* boxes2, F* gradient1, F* gradient2, ParallelFor parallel_for);

// The same on the device of the stream (a cudaStream_t); all of it is device memory. They return
// null, or what CUDA says is wrong.
template <typename F>
const char* BoxIouForwardCuda(const BoxIouParameters& parameters, const F* boxes1, const F* boxes2,
                              F* output, void* stream);
template <typename F>
const char* BoxIouBackwardCuda(const BoxIouParameters& parameters, const F* output_gradient,
                               const F* boxes1, const F* boxes2, F* gradient1, F* gradient2,
                               void* stream);

}  // namespace kvision
