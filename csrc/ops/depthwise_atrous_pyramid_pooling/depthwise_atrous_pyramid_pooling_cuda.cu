// A block owns a tile of the image for some channels next to one another. It puts the tile into
// shared memory, with all that the farthest branch reaches, and every branch reads it there. Where
// that does not fit it is left in memory, and read from the caches.
#include <cstdint>

#include "ops/depthwise_atrous_pyramid_pooling/depthwise_atrous_pyramid_pooling_tile.cuh"

namespace kvision {
namespace {

template <typename T, bool kShared>
__global__ void __launch_bounds__(kTileThreads)
    ForwardKernel(const __grid_constant__ DepthwiseAtrousParameters parameters,
                  const T* __restrict__ x, const T* __restrict__ kernels,
                  const T* __restrict__ biases, T* __restrict__ output,
                  DepthwiseAtrousTiling tiling, unsigned groups) {
  using F = AccumulatorOf<T>;
  extern __shared__ __align__(16) unsigned char memory[];
  const int64_t channels = parameters.channels;
  const int64_t height = parameters.height, width = parameters.width;
  const int64_t channel = int64_t{blockIdx.x % groups} * kGroup<T> + threadIdx.x % kGroup<T>;
  const DepthwiseAtrousTile tile = tiling.At(parameters, blockIdx.x / groups);
  int64_t rows = 0, columns = 0;
  for (int n = 0; n < parameters.num_branches; ++n) {
    rows = max(rows, DepthwiseAtrousReachOf(parameters.branches[n], height));
    columns = max(columns, DepthwiseAtrousReachOf(parameters.branches[n], width));
  }
  const DepthwiseAtrousCells<T, kShared> cells = {x,
                                                  nullptr,
                                                  channels,
                                                  height,
                                                  width,
                                                  reinterpret_cast<T*>(memory),
                                                  tile.Around(parameters, rows, columns)};
  cells.Fill(channel, channel < channels);
  if (channel >= channels) return;
  const int num_cells = tile.Rows() * tile.Columns();
  for (int n = 0; n < parameters.num_branches; ++n) {
    const DepthwiseAtrousBranch branch = parameters.branches[n];
    const int64_t rate = branch.dilation_rate, radius = branch.Radius();
    const T* const kernel = kernels + branch.first_tap * channels + channel;
    const F bias = ToFloat(biases[n * channels + channel]);
    for (int cell = threadIdx.x / kGroup<T>; cell < num_cells; cell += kTileThreads / kGroup<T>) {
      const int64_t row = tile.first_row + cell / tile.Columns();
      const int64_t column = tile.first_column + cell % tile.Columns();
      F sum = bias;
      for (int64_t i = 0; i < branch.kernel_size; ++i) {
        const int64_t y = row + (i - radius) * rate;
        if (y < 0 || y >= height) continue;
#pragma unroll 3
        for (int64_t j = 0; j < branch.kernel_size; ++j) {
          const int64_t xx = column + (j - radius) * rate;
          if (xx < 0 || xx >= width) continue;
          sum +=
              ToFloat(kernel[(i * branch.kernel_size + j) * channels]) * cells.Read(y, xx, channel);
        }
      }
      if (parameters.relu && sum < F(0)) sum = F(0);
      const int64_t pixel = (tile.image * height + row) * width + column;
      output[(pixel * parameters.num_branches + n) * channels + channel] = FromFloat<T>(sum);
    }
  }
}

// The largest tile that fits with what all branches reach, or 0.
template <typename T>
int64_t LargestTile(const DepthwiseAtrousParameters& parameters, int64_t* bytes) {
  int64_t rows = 0, columns = 0;
  for (int n = 0; n < parameters.num_branches; ++n) {
    rows = std::max(rows, DepthwiseAtrousReachOf(parameters.branches[n], parameters.height));
    columns = std::max(columns, DepthwiseAtrousReachOf(parameters.branches[n], parameters.width));
  }
  for (int64_t side : {64, 32, 16, 8}) {
    *bytes = std::min(side + 2 * rows, parameters.height) *
             std::min(side + 2 * columns, parameters.width) * kGroup<T> *
             static_cast<int64_t>(sizeof(T));
    if (*bytes <= kTileBytes) return side;
  }
  return 0;
}

}  // namespace

template <typename T>
const char* DepthwiseAtrousForwardCuda(const DepthwiseAtrousParameters& parameters, const T* x,
                                       const T* kernels, const T* biases, T* output, void* stream) {
  if (parameters.Pixels() * parameters.channels == 0) return nullptr;
  const auto launch = [&](auto kernel, int64_t side, int64_t bytes) {
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kTileBytes);
    const DepthwiseAtrousTiling tiling = TilingOf(parameters, side);
    const unsigned groups = BlocksFor(parameters.channels, kGroup<T>);
    const int64_t tiles = parameters.images * tiling.rows * tiling.columns;
    kernel<<<BlocksFor(tiles * groups, 1), kTileThreads, bytes,
             static_cast<cudaStream_t>(stream)>>>(parameters, x, kernels, biases, output, tiling,
                                                  groups);
  };
  int64_t bytes;
  const int64_t side = LargestTile<T>(parameters, &bytes);
  if (side > 0) {
    launch(ForwardKernel<T, true>, side, bytes);
  } else {
    launch(ForwardKernel<T, false>, 16, 0);
  }
  return LastCudaError();
}

#define KVISION_DEPTHWISE_ATROUS(T)                                                              \
  template const char* DepthwiseAtrousForwardCuda<T>(const DepthwiseAtrousParameters&, const T*, \
                                                     const T*, const T*, T*, void*);
KVISION_DEPTHWISE_ATROUS(Half)
KVISION_DEPTHWISE_ATROUS(BFloat16)
KVISION_DEPTHWISE_ATROUS(float)
KVISION_DEPTHWISE_ATROUS(double)
#undef KVISION_DEPTHWISE_ATROUS

}  // namespace kvision
