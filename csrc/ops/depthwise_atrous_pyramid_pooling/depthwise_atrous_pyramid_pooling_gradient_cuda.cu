// A block owns some channels of some tiles. What a cell takes from a branch's output is the sum
// over the turned kernel, and the terms of the kernel's gradient are the cell times the same
// values: the tile of the output's gradient in shared memory serves both. Blocks add what they find
// for the kernels into parts of their own, which are summed in their order: there are no atomic
// additions, so that the sums have one order.
#include <cstdint>

#include "ops/depthwise_atrous_pyramid_pooling/depthwise_atrous_pyramid_pooling_tile.cuh"

namespace kvision {
namespace {

constexpr int kTileSide = 16;
constexpr int kMostParts = 128;  // of the kernels' gradients
constexpr int kWarps = kTileThreads / kWarp;

// The cells of a tile that a thread owns.
template <typename T>
constexpr int kOwnCells = kTileSide * kTileSide / (kTileThreads / kGroup<T>);

// A piece of a turned kernel: 3 by 3 taps, less at its border.
struct Piece {
  int64_t row, column;
};

template <typename T, bool kShared>
__global__ void __launch_bounds__(kTileThreads, sizeof(T) == 8 ? 1 : 2)
    BackwardKernel(const __grid_constant__ DepthwiseAtrousParameters parameters,
                   const T* __restrict__ output_gradient, const T* __restrict__ output,
                   const T* __restrict__ x, const T* __restrict__ kernels,
                   T* __restrict__ x_gradient, AccumulatorOf<T>* __restrict__ parts,
                   DepthwiseAtrousTiling tiling, int64_t tiles, int64_t num_parts,
                   int64_t part_rows, unsigned groups) {
  using F = AccumulatorOf<T>;
  constexpr int kTaps = 9, kLanesOfCells = kTileThreads / kGroup<T>;
  extern __shared__ __align__(16) unsigned char memory[];
  __shared__ F of_warps[kWarps][kTaps][kGroup<T>];
  const int64_t channels = parameters.channels;
  const int64_t height = parameters.height, width = parameters.width;
  const int branches = parameters.num_branches;
  const int own = threadIdx.x % kGroup<T>;
  const int64_t first_channel = int64_t{blockIdx.x % groups} * kGroup<T>;
  const int64_t channel = first_channel + own;
  const bool has_channel = channel < channels;
  const int64_t part = blockIdx.x / groups;
  F* const sums = parts + part * part_rows * channels + first_channel;

  // Adds sums of each thread over its cells to rows of the part: of all cells, in their order.
  const auto add = [&](F(&values)[kTaps], auto row_of) {
#pragma unroll
    for (int tap = 0; tap < kTaps; ++tap) {
#pragma unroll
      for (int offset = kGroup<T>; offset < kWarp; offset *= 2) {
        values[tap] += __shfl_xor_sync(kAllLanes, values[tap], offset);
      }
    }
    __syncthreads();
    if (threadIdx.x % kWarp < kGroup<T>) {
#pragma unroll
      for (int tap = 0; tap < kTaps; ++tap) {
        of_warps[threadIdx.x / kWarp][tap][own] = values[tap];
      }
    }
    __syncthreads();
    for (int at = threadIdx.x; at < kTaps * kGroup<T>; at += kTileThreads) {
      const int tap = at / kGroup<T>, c = at % kGroup<T>;
      const int64_t row = row_of(tap);
      if (row < 0 || first_channel + c >= channels) continue;
      F sum = F(0);
      for (int warp = 0; warp < kWarps; ++warp) sum += of_warps[warp][tap][c];
      sums[row * channels + c] += sum;
    }
  };

  for (int64_t index = tiles * part / num_parts; index < tiles * (part + 1) / num_parts; ++index) {
    const DepthwiseAtrousTile tile = tiling.At(parameters, index);
    const int columns = tile.Columns(), num_cells = tile.Rows() * columns;
    const int64_t image = tile.image * height;
    F own_x[kOwnCells<T>], gradient[kOwnCells<T>];
#pragma unroll
    for (int k = 0; k < kOwnCells<T>; ++k) {
      const int cell = threadIdx.x / kGroup<T> + k * kLanesOfCells;
      own_x[k] = gradient[k] = F(0);
      if (has_channel && cell < num_cells) {
        const int64_t pixel =
            (image + tile.first_row + cell / columns) * width + tile.first_column + cell % columns;
        own_x[k] = ToFloat(x[pixel * channels + channel]);
      }
    }
    for (int n = 0; n < branches; ++n) {
      const DepthwiseAtrousBranch branch = parameters.branches[n];
      const int64_t rate = branch.dilation_rate, radius = branch.Radius();
      const int64_t size = branch.kernel_size;
      const DepthwiseAtrousCells<T, kShared> cells = {
          output_gradient + n * channels,
          parameters.relu ? output + n * channels : nullptr,
          branches * channels,
          height,
          width,
          reinterpret_cast<T*>(memory),
          tile.Around(parameters, DepthwiseAtrousReachOf(branch, height),
                      DepthwiseAtrousReachOf(branch, width))};
      cells.Fill(channel, has_channel);
      for (int64_t piece = 0; piece < (size + 2) / 3 * ((size + 2) / 3); ++piece) {
        const Piece first = {piece / ((size + 2) / 3) * 3, piece % ((size + 2) / 3) * 3};
        F weights[kTaps], found[kTaps];
#pragma unroll
        for (int tap = 0; tap < kTaps; ++tap) {
          const int64_t i = first.row + tap / 3, j = first.column + tap % 3;
          found[tap] = weights[tap] = F(0);
          if (has_channel && i < size && j < size) {
            const int64_t turned = branch.first_tap + size * size - 1 - (i * size + j);
            weights[tap] = ToFloat(kernels[turned * channels + channel]);
          }
        }
#pragma unroll
        for (int k = 0; k < kOwnCells<T>; ++k) {
          const int cell = threadIdx.x / kGroup<T> + k * kLanesOfCells;
          if (!has_channel || cell >= num_cells) continue;
          const int64_t row = tile.first_row + cell / columns;
          const int64_t column = tile.first_column + cell % columns;
#pragma unroll
          for (int tap = 0; tap < kTaps; ++tap) {
            const int64_t i = first.row + tap / 3, j = first.column + tap % 3;
            const int64_t y = row + (i - radius) * rate, xx = column + (j - radius) * rate;
            if (i < size && j < size && y >= 0 && y < height && xx >= 0 && xx < width) {
              const F value = cells.Read(y, xx, channel);
              gradient[k] += weights[tap] * value;
              found[tap] += own_x[k] * value;
            }
          }
        }
        add(found, [&](int tap) -> int64_t {
          const int64_t i = first.row + tap / 3, j = first.column + tap % 3;
          return i < size && j < size ? branch.first_tap + size * size - 1 - (i * size + j) : -1;
        });
      }
      F arrived[kTaps] = {};
#pragma unroll
      for (int k = 0; k < kOwnCells<T>; ++k) {
        const int cell = threadIdx.x / kGroup<T> + k * kLanesOfCells;
        if (has_channel && cell < num_cells) {
          arrived[0] += cells.Read(tile.first_row + cell / columns,
                                   tile.first_column + cell % columns, channel);
        }
      }
      add(arrived, [&](int tap) -> int64_t { return tap == 0 ? part_rows - branches + n : -1; });
    }
#pragma unroll
    for (int k = 0; k < kOwnCells<T>; ++k) {
      const int cell = threadIdx.x / kGroup<T> + k * kLanesOfCells;
      if (has_channel && cell < num_cells) {
        const int64_t pixel =
            (image + tile.first_row + cell / columns) * width + tile.first_column + cell % columns;
        x_gradient[pixel * channels + channel] = FromFloat<T>(gradient[k]);
      }
    }
  }
}

// The sums of the parts, in their order: of the kernels, and behind them of the biases.
template <typename T>
__global__ void SumParts(const AccumulatorOf<T>* __restrict__ parts, int64_t num_parts,
                         int64_t part_size, int64_t of_kernels, T* __restrict__ kernels,
                         T* __restrict__ biases) {
  const int64_t at = ThreadInGrid();
  if (at >= part_size) return;
  AccumulatorOf<T> sum = 0;
  for (int64_t part = 0; part < num_parts; ++part) sum += parts[part * part_size + at];
  (at < of_kernels ? kernels[at] : biases[at - of_kernels]) = FromFloat<T>(sum);
}

int64_t NumTiles(const DepthwiseAtrousParameters& parameters) {
  const DepthwiseAtrousTiling tiling = TilingOf(parameters, kTileSide);
  return parameters.images * tiling.rows * tiling.columns;
}

int64_t NumParts(const DepthwiseAtrousParameters& parameters) {
  return std::min<int64_t>(NumTiles(parameters), kMostParts);
}

}  // namespace

template <typename T>
int64_t DepthwiseAtrousBackwardCudaWorkspace(const DepthwiseAtrousParameters& parameters) {
  return NumParts(parameters) * (parameters.NumTaps() + parameters.num_branches) *
         parameters.channels * static_cast<int64_t>(sizeof(AccumulatorOf<T>));
}

template <typename T>
const char* DepthwiseAtrousBackwardCuda(const DepthwiseAtrousParameters& parameters,
                                        const T* output_gradient, const T* output, const T* x,
                                        const T* kernels,
                                        const DepthwiseAtrousGradients<T>& gradients,
                                        void* workspace, void* stream) {
  using F = AccumulatorOf<T>;
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  const int64_t channels = parameters.channels;
  const int64_t part_rows = parameters.NumTaps() + parameters.num_branches;
  const int64_t part_size = part_rows * channels;
  const int64_t tiles = NumTiles(parameters), num_parts = NumParts(parameters);
  F* const parts = static_cast<F*>(workspace);
  if (part_size == 0) return nullptr;
  if (tiles > 0) {
    cudaMemsetAsync(parts, 0, num_parts * part_size * sizeof(F), cuda_stream);
    const unsigned groups = BlocksFor(channels, kGroup<T>);
    const auto launch = [&](auto kernel, int64_t bytes) {
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kTileBytes);
      kernel<<<BlocksFor(num_parts * groups, 1), kTileThreads, bytes, cuda_stream>>>(
          parameters, output_gradient, output, x, kernels, gradients.x, parts,
          TilingOf(parameters, kTileSide), tiles, num_parts, part_rows, groups);
    };
    const int64_t bytes = TileBytes<T>(parameters, kTileSide);
    if (bytes <= kTileBytes) {
      launch(BackwardKernel<T, true>, bytes);
    } else {
      launch(BackwardKernel<T, false>, 0);
    }
  }
  SumParts<T><<<BlocksFor(part_size, kTileThreads), kTileThreads, 0, cuda_stream>>>(
      parts, num_parts, part_size, parameters.NumTaps() * channels, gradients.kernels,
      gradients.biases);
  return LastCudaError();
}

#define KVISION_DEPTHWISE_ATROUS(T)                                                           \
  template int64_t DepthwiseAtrousBackwardCudaWorkspace<T>(const DepthwiseAtrousParameters&); \
  template const char* DepthwiseAtrousBackwardCuda<T>(                                        \
      const DepthwiseAtrousParameters&, const T*, const T*, const T*, const T*,               \
      const DepthwiseAtrousGradients<T>&, void*, void*);
KVISION_DEPTHWISE_ATROUS(Half)
KVISION_DEPTHWISE_ATROUS(BFloat16)
KVISION_DEPTHWISE_ATROUS(float)
KVISION_DEPTHWISE_ATROUS(double)
#undef KVISION_DEPTHWISE_ATROUS

}  // namespace kvision
