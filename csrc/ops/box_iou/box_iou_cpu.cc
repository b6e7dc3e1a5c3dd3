#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <type_traits>

#include "common/isa.h"
#include "ops/box_iou/box_iou.h"

namespace kvision {
namespace {

constexpr int64_t kIouBlock = 256;
constexpr int64_t kBoxesPerTask = 16;

// Boxes by coordinate, so that vectors of them can be loaded. What is left of a block is NaN: such
// boxes have no gradient, whereas an empty one would have an infinite one beside a tiny box.
template <typename F>
struct IouBlock {
  F x1[kIouBlock], y1[kIouBlock], x2[kIouBlock], y2[kIouBlock], area[kIouBlock], angle[kIouBlock];
  int64_t size;
};

// The loops of one kind, for one instruction set: see box_iou_rows.inc.
template <typename F>
struct IouRows {
  using Values = void(const IouBlock<F>& a, int64_t index, const IouBlock<F>& b, F* output);
  using Gradients = void(const IouBlock<F>& a, const IouBlock<F>& b, int64_t index,
                         const F* upstream, F* gradient);
  Values *pairwise, *elementwise;
  void (*gradient_of_one)(const IouBlock<F>& a, int64_t index, const IouBlock<F>& b,
                          const F* upstream, F* gradient);
  Gradients *gradient_of_all, *elementwise_gradient;
};

}  // namespace
}  // namespace kvision

#define KVISION_ISA_FILE "ops/box_iou/box_iou_rows.inc"
#include "common/foreach_isa.h"

namespace kvision {
namespace {

template <typename F>
IouRows<F> RowsForThisProcessor(IouKind kind) {
  switch (CurrentIsa()) {
#ifdef __x86_64__
    case Isa::kAvx512:
      return avx512::RowsOf<F>(kind);
    case Isa::kAvx2:
      return avx2::RowsOf<F>(kind);
#endif
    default:
      return baseline::RowsOf<F>(kind);
  }
}

int64_t NumBlocks(int64_t size, int64_t block) { return (size + block - 1) / block; }

template <typename F>
F SideOf(F low, F high) {
  return high > low ? high - low : F(0);
}

template <typename F>
void Fill(const F* boxes, int64_t size, bool with_angle, IouBlock<F>* block) {
  constexpr F kNaN = std::numeric_limits<F>::quiet_NaN();
  block->size = size;
  for (int64_t i = 0; i < kIouBlock; ++i) {
    const bool real = i < size;
    const F x1 = real ? boxes[4 * i] : kNaN, y1 = real ? boxes[4 * i + 1] : kNaN;
    const F x2 = real ? boxes[4 * i + 2] : kNaN, y2 = real ? boxes[4 * i + 3] : kNaN;
    const F area = SideOf(x1, x2) * SideOf(y1, y2);
    // A difference with itself is 0 for what is finite, and no number for what is not.
    const F not_finite = (x1 - x1) + (y1 - y1) + (x2 - x2) + (y2 - y2) + (area - area);
    block->x1[i] = x1;
    block->y1[i] = y1;
    block->x2[i] = x2;
    block->y2[i] = y2;
    block->area[i] = area + not_finite;
    block->angle[i] = F(0);
  }
  if (!with_angle) return;
  for (int64_t i = 0; i < size; ++i) {
    block->angle[i] =
        std::atan2(SideOf(block->x1[i], block->x2[i]), SideOf(block->y1[i], block->y2[i]));
  }
}

// The part of `boxes` (size, 4) from `first` on that a block of at most `limit` boxes holds.
template <typename F>
void FillFrom(const F* boxes, int64_t size, int64_t first, int64_t limit, bool with_angle,
              IouBlock<F>* block) {
  Fill(boxes + 4 * first, std::min(limit, size - first), with_angle, block);
}

template <typename F>
void StoreGradient(const F* sums, int64_t size, F* gradient) {
  for (int64_t i = 0; i < size; ++i) {
    for (int corner = 0; corner < 4; ++corner) {
      gradient[4 * i + corner] = sums[corner * kIouBlock + i];
    }
  }
}

// The gradient of boxes1 from their pairs with all boxes2: a task owns a few of them.
template <typename F>
void GradientOfFirst(const BoxIouParameters& p, const IouRows<F>& rows, const F* upstream,
                     const F* boxes1, const F* boxes2, F* gradient, ParallelFor parallel_for) {
  const bool angle = p.kind == IouKind::kCiou;
  const int64_t blocks = NumBlocks(p.num_boxes1, kBoxesPerTask);
  parallel_for(p.batch * blocks, 8 * kBoxesPerTask * p.num_boxes2, [&](int64_t begin, int64_t end) {
    IouBlock<F> a, b;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t image = task / blocks, first = task % blocks * kBoxesPerTask;
      FillFrom(boxes1 + 4 * image * p.num_boxes1, p.num_boxes1, first, kBoxesPerTask, angle, &a);
      F* own = gradient + 4 * (image * p.num_boxes1 + first);
      std::fill_n(own, 4 * a.size, F(0));
      for (int64_t from = 0; from < p.num_boxes2; from += kIouBlock) {
        FillFrom(boxes2 + 4 * image * p.num_boxes2, p.num_boxes2, from, kIouBlock, angle, &b);
        for (int64_t i = 0; i < a.size; ++i) {
          const F* row = upstream + (image * p.num_boxes1 + first + i) * p.num_boxes2 + from;
          rows.gradient_of_one(a, i, b, row, own + 4 * i);
        }
      }
    }
  });
}

// The gradient of boxes2 from their pairs with all boxes1: a task owns a block of them.
template <typename F>
void GradientOfSecond(const BoxIouParameters& p, const IouRows<F>& rows, const F* upstream,
                      const F* boxes1, const F* boxes2, F* gradient, ParallelFor parallel_for) {
  const bool angle = p.kind == IouKind::kCiou;
  const int64_t blocks = NumBlocks(p.num_boxes2, kIouBlock);
  parallel_for(p.batch * blocks, 8 * kIouBlock * p.num_boxes1, [&](int64_t begin, int64_t end) {
    IouBlock<F> a, b;
    F sums[4 * kIouBlock];
    for (int64_t task = begin; task < end; ++task) {
      const int64_t image = task / blocks, first = task % blocks * kIouBlock;
      FillFrom(boxes2 + 4 * image * p.num_boxes2, p.num_boxes2, first, kIouBlock, angle, &b);
      std::fill_n(sums, 4 * kIouBlock, F(0));
      for (int64_t from = 0; from < p.num_boxes1; from += kIouBlock) {
        FillFrom(boxes1 + 4 * image * p.num_boxes1, p.num_boxes1, from, kIouBlock, angle, &a);
        for (int64_t i = 0; i < a.size; ++i) {
          const F* row = upstream + (image * p.num_boxes1 + from + i) * p.num_boxes2 + first;
          rows.gradient_of_all(b, a, i, row, sums);
        }
      }
      StoreGradient(sums, b.size, gradient + 4 * (image * p.num_boxes2 + first));
    }
  });
}

// Runs body(first, a, b) for blocks of boxes at equal places.
template <typename F, typename Body>
void ForEachBlock(const BoxIouParameters& p, const F* boxes1, const F* boxes2,
                  ParallelFor parallel_for, const Body& body) {
  const int64_t total = p.batch * p.num_boxes1;
  const bool angle = p.kind == IouKind::kCiou;
  parallel_for(NumBlocks(total, kIouBlock), 64 * kIouBlock, [&](int64_t begin, int64_t end) {
    IouBlock<F> a, b;
    for (int64_t first = begin * kIouBlock; first < std::min(end * kIouBlock, total);
         first += kIouBlock) {
      FillFrom(boxes1, total, first, kIouBlock, angle, &a);
      FillFrom(boxes2, total, first, kIouBlock, angle, &b);
      body(first, a, b);
    }
  });
}

}  // namespace

template <typename F>
void BoxIouForward(const BoxIouParameters& p, const F* boxes1, const F* boxes2, F* output,
                   ParallelFor parallel_for) {
  const IouRows<F> rows = RowsForThisProcessor<F>(p.kind);
  if (!p.pairwise) {
    ForEachBlock(p, boxes1, boxes2, parallel_for,
                 [&](int64_t first, const IouBlock<F>& a, const IouBlock<F>& b) {
                   rows.elementwise(a, 0, b, output + first);
                 });
    return;
  }
  const bool angle = p.kind == IouKind::kCiou;
  const int64_t blocks1 = NumBlocks(p.num_boxes1, kIouBlock);
  const int64_t blocks2 = NumBlocks(p.num_boxes2, kIouBlock);
  const int64_t cost = std::min(kIouBlock, p.num_boxes1) * std::min(kIouBlock, p.num_boxes2);
  parallel_for(p.batch * blocks1 * blocks2, cost, [&](int64_t begin, int64_t end) {
    IouBlock<F> a, b;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t image = task / blocks2 / blocks1;
      const int64_t first1 = task / blocks2 % blocks1 * kIouBlock;
      const int64_t first2 = task % blocks2 * kIouBlock;
      FillFrom(boxes1 + 4 * image * p.num_boxes1, p.num_boxes1, first1, kIouBlock, angle, &a);
      FillFrom(boxes2 + 4 * image * p.num_boxes2, p.num_boxes2, first2, kIouBlock, angle, &b);
      for (int64_t i = 0; i < a.size; ++i) {
        rows.pairwise(a, i, b,
                      output + (image * p.num_boxes1 + first1 + i) * p.num_boxes2 + first2);
      }
    }
  });
}

template <typename F>
void BoxIouBackward(const BoxIouParameters& p, const F* output_gradient, const F* boxes1,
                    const F* boxes2, F* gradient1, F* gradient2, ParallelFor parallel_for) {
  const IouRows<F> rows = RowsForThisProcessor<F>(p.kind);
  if (p.pairwise) {
    GradientOfFirst(p, rows, output_gradient, boxes1, boxes2, gradient1, parallel_for);
    GradientOfSecond(p, rows, output_gradient, boxes1, boxes2, gradient2, parallel_for);
    return;
  }
  ForEachBlock(p, boxes1, boxes2, parallel_for,
               [&](int64_t first, const IouBlock<F>& a, const IouBlock<F>& b) {
                 F sums[4 * kIouBlock] = {};
                 rows.elementwise_gradient(a, b, 0, output_gradient + first, sums);
                 StoreGradient(sums, a.size, gradient1 + 4 * first);
                 std::fill_n(sums, 4 * kIouBlock, F(0));
                 rows.elementwise_gradient(b, a, 0, output_gradient + first, sums);
                 StoreGradient(sums, b.size, gradient2 + 4 * first);
               });
}

#define KVISION_BOX_IOU(F)                                                                       \
  template void BoxIouForward<F>(const BoxIouParameters&, const F*, const F*, F*, ParallelFor);  \
  template void BoxIouBackward<F>(const BoxIouParameters&, const F*, const F*, const F*, F*, F*, \
                                  ParallelFor);
KVISION_BOX_IOU(float)
KVISION_BOX_IOU(double)
#undef KVISION_BOX_IOU

}  // namespace kvision
