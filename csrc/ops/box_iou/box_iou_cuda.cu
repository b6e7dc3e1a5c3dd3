// A thread a column of the matrix going forward; going back a warp a box of boxes1 and a lane of
// every warp of a block a box of boxes2, each gradient written once and summed in one order.
#include <cstdint>
#include <type_traits>

#include "common/launch.cuh"
#include "ops/box_iou/box_iou.h"

#define KVISION_ISA device
#include "ops/box_iou/box_iou_pair.inc"
#undef KVISION_ISA

namespace kvision {
namespace {

constexpr int kThreads = 128;
// Of the matrix, that a block and a thread of the forward pass write.
constexpr int kRows = 32;
template <typename F>
constexpr int kColumnsOf = sizeof(F) == 8 ? 2 : 4;
constexpr int kSecondThreads = 512;

template <typename F>
__device__ inline device::IouBox<F> ReadBox(const F* boxes, int64_t index, bool with_angle) {
  const F x1 = boxes[4 * index], y1 = boxes[4 * index + 1];
  const F x2 = boxes[4 * index + 2], y2 = boxes[4 * index + 3];
  const F width = x2 > x1 ? x2 - x1 : F(0), height = y2 > y1 ? y2 - y1 : F(0);
  const F area = width * height;
  const F not_finite = (x1 - x1) + (y1 - y1) + (x2 - x2) + (y2 - y2) + (area - area);
  return {x1, y1, x2, y2, area + not_finite, with_angle ? atan2(width, height) : F(0)};
}

template <IouKind kKind, typename F>
__global__ void ElementwiseForwardKernel(const F* __restrict__ boxes1, const F* __restrict__ boxes2,
                                         F* __restrict__ output, int64_t total) {
  constexpr bool kAngle = kKind == IouKind::kCiou;
  const int64_t i = ThreadInGrid();
  if (i >= total) return;
  output[i] =
      device::IouPair<kKind, F>(ReadBox(boxes1, i, kAngle), ReadBox(boxes2, i, kAngle)).Value();
}

// A thread a few boxes of boxes2, kThreads apart; a block kRows boxes of boxes1.
template <IouKind kKind, typename F>
__global__ void __launch_bounds__(kThreads)
    PairwiseForwardKernel(BoxIouParameters p, const F* __restrict__ boxes1,
                          const F* __restrict__ boxes2, F* __restrict__ output,
                          unsigned column_blocks, unsigned row_blocks) {
  constexpr bool kAngle = kKind == IouKind::kCiou;
  constexpr int kColumns = kColumnsOf<F>;
  __shared__ device::IouBox<F> rows[kRows];
  const int64_t image = blockIdx.x / column_blocks / row_blocks;
  const int64_t first_row = int64_t{blockIdx.x / column_blocks % row_blocks} * kRows;
  const int64_t first_column =
      int64_t{blockIdx.x % column_blocks} * (kThreads * kColumns) + threadIdx.x;
  const int num_rows = static_cast<int>(min(int64_t{kRows}, p.num_boxes1 - first_row));
  if (threadIdx.x < num_rows) {
    rows[threadIdx.x] = ReadBox(boxes1, image * p.num_boxes1 + first_row + threadIdx.x, kAngle);
  }
  __syncthreads();
  device::IouBox<F> own[kColumns] = {};
#pragma unroll
  for (int k = 0; k < kColumns; ++k) {
    const int64_t column = first_column + k * kThreads;
    if (column < p.num_boxes2) own[k] = ReadBox(boxes2, image * p.num_boxes2 + column, kAngle);
  }
  F* to = output + (image * p.num_boxes1 + first_row) * p.num_boxes2 + first_column;
  for (int row = 0; row < num_rows; ++row, to += p.num_boxes2) {
    const device::IouBox<F> box = rows[row];
    F values[kColumns];
#pragma unroll
    for (int k = 0; k < kColumns; ++k) values[k] = device::IouPair<kKind, F>(box, own[k]).Value();
#pragma unroll
    for (int k = 0; k < kColumns; ++k) {
      if (first_column + k * kThreads < p.num_boxes2) to[k * kThreads] = values[k];
    }
  }
}

template <IouKind kKind, typename F>
__global__ void ElementwiseBackwardKernel(const F* __restrict__ upstream,
                                          const F* __restrict__ boxes1,
                                          const F* __restrict__ boxes2, F* __restrict__ gradient1,
                                          F* __restrict__ gradient2, int64_t total) {
  constexpr bool kAngle = kKind == IouKind::kCiou;
  const int64_t i = ThreadInGrid();
  if (i >= total) return;
  const device::IouBox<F> a = ReadBox(boxes1, i, kAngle), b = ReadBox(boxes2, i, kAngle);
  F sums1[4] = {}, sums2[4] = {};
  device::AddIouGradient<kKind>(a, b, upstream[i], sums1);
  device::AddIouGradient<kKind>(b, a, upstream[i], sums2);
  for (int corner = 0; corner < 4; ++corner) {
    gradient1[4 * i + corner] = sums1[corner];
    gradient2[4 * i + corner] = sums2[corner];
  }
}

template <IouKind kKind, typename F>
__global__ void FirstBackwardKernel(BoxIouParameters p, const F* __restrict__ upstream,
                                    const F* __restrict__ boxes1, const F* __restrict__ boxes2,
                                    F* __restrict__ gradient) {
  constexpr bool kAngle = kKind == IouKind::kCiou;
  const int64_t total = p.batch * p.num_boxes1;
  const int64_t own = ThreadInGrid() / kWarp;
  const int lane = threadIdx.x % kWarp;
  if (own >= total) return;
  const device::IouBox<F> a = ReadBox(boxes1, own, kAngle);
  const int64_t first = own / p.num_boxes1 * p.num_boxes2;
  F sums[4] = {};
  for (int64_t j = lane; j < p.num_boxes2; j += kWarp) {
    device::AddIouGradient<kKind>(a, ReadBox(boxes2, first + j, kAngle),
                                  upstream[own * p.num_boxes2 + j], sums);
  }
  for (int corner = 0; corner < 4; ++corner) {
    for (int offset = kWarp / 2; offset > 0; offset /= 2) {
      sums[corner] += __shfl_down_sync(kAllLanes, sums[corner], offset);
    }
    if (lane == 0) gradient[4 * own + corner] = sums[corner];
  }
}

// A lane a box of boxes2; the warps of a block share boxes1 out among them.
template <IouKind kKind, typename F>
__global__ void __launch_bounds__(kSecondThreads, 1)
    SecondBackwardKernel(BoxIouParameters p, const F* __restrict__ upstream,
                         const F* __restrict__ boxes1, const F* __restrict__ boxes2,
                         F* __restrict__ gradient) {
  constexpr bool kAngle = kKind == IouKind::kCiou;
  constexpr int kWarps = kSecondThreads / kWarp;
  __shared__ F sums_of_warps[kWarps][4][kWarp];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t own = int64_t{blockIdx.x} * kWarp + lane;
  const bool owns = own < p.batch * p.num_boxes2;
  F sums[4] = {};
  if (owns) {
    const device::IouBox<F> b = ReadBox(boxes2, own, kAngle);
    const int64_t first = own / p.num_boxes2 * p.num_boxes1, column = own % p.num_boxes2;
    for (int64_t i = warp; i < p.num_boxes1; i += kWarps) {
      device::AddIouGradient<kKind>(b, ReadBox(boxes1, first + i, kAngle),
                                    upstream[(first + i) * p.num_boxes2 + column], sums);
    }
  }
  for (int corner = 0; corner < 4; ++corner) sums_of_warps[warp][corner][lane] = sums[corner];
  __syncthreads();
  if (warp > 0 || !owns) return;
  for (int corner = 0; corner < 4; ++corner) {
    F sum = 0;
    for (int of = 0; of < kWarps; ++of) sum += sums_of_warps[of][corner][lane];
    gradient[4 * own + corner] = sum;
  }
}

// Calls launch(std::integral_constant<IouKind, kind>).
template <typename Launch>
void WithKind(IouKind kind, const Launch& launch) {
  switch (kind) {
    case IouKind::kIou:
      return launch(std::integral_constant<IouKind, IouKind::kIou>());
    case IouKind::kGiou:
      return launch(std::integral_constant<IouKind, IouKind::kGiou>());
    case IouKind::kDiou:
      return launch(std::integral_constant<IouKind, IouKind::kDiou>());
    case IouKind::kCiou:
      return launch(std::integral_constant<IouKind, IouKind::kCiou>());
  }
}

}  // namespace

template <typename F>
const char* BoxIouForwardCuda(const BoxIouParameters& p, const F* boxes1, const F* boxes2,
                              F* output, void* stream) {
  const int64_t total = p.batch * p.num_boxes1 * (p.pairwise ? p.num_boxes2 : 1);
  if (total == 0) return nullptr;
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  WithKind(p.kind, [&](auto kind) {
    constexpr IouKind kKind = decltype(kind)::value;
    if (!p.pairwise) {
      ElementwiseForwardKernel<kKind, F>
          <<<BlocksFor(total, kThreads), kThreads, 0, cuda_stream>>>(boxes1, boxes2, output, total);
      return;
    }
    const unsigned column_blocks = BlocksFor(p.num_boxes2, kThreads * kColumnsOf<F>);
    const unsigned row_blocks = BlocksFor(p.num_boxes1, kRows);
    PairwiseForwardKernel<kKind, F>
        <<<BlocksFor(p.batch * column_blocks * row_blocks, 1), kThreads, 0, cuda_stream>>>(
            p, boxes1, boxes2, output, column_blocks, row_blocks);
  });
  return LastCudaError();
}

template <typename F>
const char* BoxIouBackwardCuda(const BoxIouParameters& p, const F* output_gradient, const F* boxes1,
                               const F* boxes2, F* gradient1, F* gradient2, void* stream) {
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  const int64_t total1 = p.batch * p.num_boxes1, total2 = p.batch * p.num_boxes2;
  WithKind(p.kind, [&](auto kind) {
    constexpr IouKind kKind = decltype(kind)::value;
    if (!p.pairwise) {
      if (total1 == 0) return;
      ElementwiseBackwardKernel<kKind, F>
          <<<BlocksFor(total1, kThreads), kThreads, 0, cuda_stream>>>(
              output_gradient, boxes1, boxes2, gradient1, gradient2, total1);
      return;
    }
    if (total1 > 0) {
      FirstBackwardKernel<kKind, F>
          <<<BlocksFor(total1, kThreads / kWarp), kThreads, 0, cuda_stream>>>(
              p, output_gradient, boxes1, boxes2, gradient1);
    }
    if (total2 > 0) {
      SecondBackwardKernel<kKind, F><<<BlocksFor(total2, kWarp), kSecondThreads, 0, cuda_stream>>>(
          p, output_gradient, boxes1, boxes2, gradient2);
    }
  });
  return LastCudaError();
}

#define KVISION_BOX_IOU(F)                                                                   \
  template const char* BoxIouForwardCuda<F>(const BoxIouParameters&, const F*, const F*, F*, \
                                            void*);                                          \
  template const char* BoxIouBackwardCuda<F>(const BoxIouParameters&, const F*, const F*,    \
                                             const F*, F*, F*, void*);
KVISION_BOX_IOU(float)
KVISION_BOX_IOU(double)
#undef KVISION_BOX_IOU

}  // namespace kvision
