// Implicit matrix products: a block owns a tile of the result and gathers what it multiplies into
// shared memory, tap by tap, so that no sum is split between blocks and each has one order. Half
// types go through tensor cores, which sum in float; float32 and float64 through their own
// multiply-adds, for TF32 would round what is multiplied.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <mma.h>

#include <cstdint>
#include <type_traits>

#include "common/channel_packs.cuh"
#include "common/half.h"
#include "common/launch.cuh"
#include "ops/atrous_pyramid_pooling/atrous_pyramid_pooling.h"

namespace kvision {
namespace {

constexpr int kThreads = 256;
// Leaves each thread up to 128 registers, so that none spills.
constexpr int kBlocksOnSm = 2;
constexpr int kTile = 64;  // rows and columns of the result
// Of what is summed, so much is in shared memory at a time.
template <typename T>
constexpr int kDepth = sizeof(T) == 2 ? 32 : 16;
// 16 bytes.
template <typename T>
constexpr int kWidePack = 16 / sizeof(T);

// A tile of a matrix: lines of numbers that lie together in memory too, each a pack longer than it
// need be, so that columns do not fall on one bank.
template <typename T, int kLines, int kSize>
struct alignas(32) Lines {
  static constexpr int kStride = kSize + kWidePack<T>;

  T numbers[kLines][kStride];

  // at(line, i) is where the pack from number i on lies, or null for zeros.
  template <int kPack, typename At>
  __device__ void Fill(At at) {
    constexpr int kPacks = kSize / kPack;
    for (int k = threadIdx.x; k < kLines * kPacks; k += kThreads) {
      const int line = k / kPacks, i = k % kPacks * kPack;
      const T* const from = at(line, i);
      Pack<T, kPack> pack = {};
      if (from != nullptr) pack = LoadPack<kPack>(from);
      StorePack<kPack>(pack, &numbers[line][i]);
    }
  }
};

// The left matrix by rows, or by depth, and the right one by depth, or by columns.
template <typename T, bool kByDepth>
using Left = std::conditional_t<kByDepth, Lines<T, kDepth<T>, kTile>, Lines<T, kTile, kDepth<T>>>;
template <typename T, bool kByColumn>
using Right = std::conditional_t<kByColumn, Lines<T, kTile, kDepth<T>>, Lines<T, kDepth<T>, kTile>>;

// The sums of a tile, 4 x 4 a thread.
template <typename T, bool kByDepth, bool kByColumn>
class ThreadSums {
 public:
  __device__ void Add(const Left<T, kByDepth>& left, const Right<T, kByColumn>& right) {
#pragma unroll
    for (int d = 0; d < kDepth<T>; ++d) {
      T a[4], b[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = FirstRow() + i, column = FirstColumn() + i;
        a[i] = kByDepth ? left.numbers[d][row] : left.numbers[row][d];
        b[i] = kByColumn ? right.numbers[column][d] : right.numbers[d][column];
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) sums_[i][j] += a[i] * b[j];
      }
    }
  }

  // visit(row, column, sum) for all sums of this thread.
  template <typename Visit>
  __device__ void ForEach(Visit visit) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) visit(FirstRow() + i, FirstColumn() + j, sums_[i][j]);
    }
  }

 private:
  __device__ static int FirstRow() { return threadIdx.x / 16 * 4; }
  __device__ static int FirstColumn() { return threadIdx.x % 16 * 4; }

  T sums_[4][4] = {};
};

// The sums of a tile on tensor cores, two fragments of 16 x 16 a warp.
template <typename T, bool kByDepth, bool kByColumn>
class FragmentSums {
  using Number = std::conditional_t<std::is_same_v<T, Half>, __half, __nv_bfloat16>;
  using RowMajor = nvcuda::wmma::row_major;
  using ColumnMajor = nvcuda::wmma::col_major;

 public:
  __device__ FragmentSums() {
    for (auto& sums : sums_) nvcuda::wmma::fill_fragment(sums, 0.0f);
  }

  __device__ void Add(const Left<T, kByDepth>& left, const Right<T, kByColumn>& right) {
    using nvcuda::wmma::fragment;
    constexpr int kLeftStride = Left<T, kByDepth>::kStride;
    constexpr int kRightStride = Right<T, kByColumn>::kStride;
    const int row = FirstRow();
#pragma unroll
    for (int d = 0; d < kDepth<T>; d += 16) {
      fragment<nvcuda::wmma::matrix_a, 16, 16, 16, Number,
               std::conditional_t<kByDepth, ColumnMajor, RowMajor>>
          a;
      const T* const from = kByDepth ? &left.numbers[d][row] : &left.numbers[row][d];
      nvcuda::wmma::load_matrix_sync(a, reinterpret_cast<const Number*>(from), kLeftStride);
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        fragment<nvcuda::wmma::matrix_b, 16, 16, 16, Number,
                 std::conditional_t<kByColumn, ColumnMajor, RowMajor>>
            b;
        const int column = FirstColumn() + 16 * k;
        const T* const at = kByColumn ? &right.numbers[column][d] : &right.numbers[d][column];
        nvcuda::wmma::load_matrix_sync(b, reinterpret_cast<const Number*>(at), kRightStride);
        nvcuda::wmma::mma_sync(sums_[k], a, b, sums_[k]);
      }
    }
  }

  template <typename Visit>
  __device__ void ForEach(Visit visit) {
    __shared__ alignas(32) float tile[kTile][kTile];
    for (int k = 0; k < 2; ++k) {
      nvcuda::wmma::store_matrix_sync(&tile[FirstRow()][FirstColumn() + 16 * k], sums_[k], kTile,
                                      nvcuda::wmma::mem_row_major);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < kTile * kTile; i += kThreads) {
      visit(i / kTile, i % kTile, tile[i / kTile][i % kTile]);
    }
  }

 private:
  __device__ static int FirstRow() { return threadIdx.x / kWarp / 2 * 16; }
  __device__ static int FirstColumn() { return threadIdx.x / kWarp % 2 * 32; }

  nvcuda::wmma::fragment<nvcuda::wmma::accumulator, 16, 16, 16, float> sums_[2];
};

template <typename T, bool kByDepth, bool kByColumn>
using TileSums = std::conditional_t<sizeof(T) == 2, FragmentSums<T, kByDepth, kByColumn>,
                                    ThreadSums<T, kByDepth, kByColumn>>;

template <typename T>
struct Branches {
  AtrousBranch<T> all[kAtrousMaxBranches];
  int number;

  explicit Branches(Span<const AtrousBranch<T>> branches)
      : number(static_cast<int>(branches.size)) {
    for (int i = 0; i < number; ++i) all[i] = branches[i];
  }
};

__host__ __device__ inline int64_t TilesOf(int64_t size) { return (size + kTile - 1) / kTile; }

// The pixels of a tile's rows, and where each of them finds a tap's pixel.
struct TilePixels {
  int64_t source[kTile];  // -1 where the tap falls off the map

  // Whether a tap, seen in the direction `sign`, finds the map from any pixel of the tile. Its
  // offsets are looked up by all threads, which have used those before.
  __device__ bool Find(const AtrousMap& map, int64_t first, int64_t down, int64_t right) {
    __syncthreads();
    bool finds = false;
    if (threadIdx.x < kTile) {
      const int64_t pixel = first + threadIdx.x;
      int64_t found = -1;
      if (pixel < map.Pixels()) {
        const int64_t y = pixel / map.width % map.height + down;
        const int64_t x = pixel % map.width + right;
        if (y >= 0 && y < map.height && x >= 0 && x < map.width) {
          found = pixel + down * map.width + right;
        }
      }
      source[threadIdx.x] = found;
      finds = found >= 0;
    }
    return __syncthreads_or(finds);
  }
};

// Adds, for one tap, the products of `depth` channels, those of a tile's pixels from `channels` on,
// with the weights at weights(line, i).
template <int kPack, bool kByColumn, typename T, typename Sums, typename Weights>
__device__ void AddTap(const TilePixels& pixels, const T* channels, int64_t num_channels,
                       int64_t depth, Left<T, false>& left, Right<T, kByColumn>& right, Sums& sums,
                       Weights weights) {
  for (int64_t first = 0; first < depth; first += kDepth<T>) {
    left.template Fill<kPack>([&](int row, int d) -> const T* {
      const int64_t pixel = pixels.source[row];
      return pixel < 0 || first + d >= depth ? nullptr
                                             : channels + pixel * num_channels + first + d;
    });
    right.template Fill<kPack>([&](int line, int i) { return weights(first, line, i); });
    __syncthreads();
    sums.Add(left, right);
    __syncthreads();
  }
}

template <typename T, int kPack>
__global__ void __launch_bounds__(kThreads, kBlocksOnSm)
    ForwardKernel(AtrousMap map, const T* __restrict__ x, Branches<const T> branches,
                  const T* __restrict__ biases, bool relu, T* __restrict__ output) {
  __shared__ Left<T, false> left;
  __shared__ Right<T, false> right;
  __shared__ TilePixels pixels;
  // A tile of pixels and one of a branch's filters.
  const int64_t row_tiles = TilesOf(map.Pixels());
  const int64_t first_pixel = blockIdx.x % row_tiles * kTile;
  int64_t column_tile = blockIdx.x / row_tiles;
  int n = 0;
  for (; column_tile >= TilesOf(branches.all[n].filters); ++n) {
    column_tile -= TilesOf(branches.all[n].filters);
  }
  const AtrousBranch<const T> branch = branches.all[n];
  const int64_t first_filter = column_tile * kTile, filters = branch.filters;
  TileSums<T, false, false> sums;
  for (int64_t tap = 0; map.in_channels > 0 && tap < branch.Taps(); ++tap) {
    const int64_t i = tap / branch.kernel_width, j = tap % branch.kernel_width;
    const int64_t down = ReachOfTap(i, branch.kernel_height, branch.rate, map.height).offset;
    const int64_t right_of = ReachOfTap(j, branch.kernel_width, branch.rate, map.width).offset;
    if (!pixels.Find(map, first_pixel, down, right_of)) continue;
    const T* const weights = branch.kernel + tap * map.in_channels * filters + first_filter;
    AddTap<kPack, false>(pixels, x, map.in_channels, map.in_channels, left, right, sums,
                         [&](int64_t first, int d, int column) -> const T* {
                           return first + d < map.in_channels && first_filter + column < filters
                                      ? weights + (first + d) * filters + column
                                      : nullptr;
                         });
  }
  sums.ForEach([&](int row, int column, AccumulatorOf<T> sum) {
    const int64_t pixel = first_pixel + row, filter = first_filter + column;
    if (pixel >= map.Pixels() || filter >= filters) return;
    const int64_t channel = branch.first_filter + filter;
    sum += ToFloat(biases[channel]);
    if (relu && sum < 0) sum = 0;
    output[pixel * map.filters + channel] = FromFloat<T>(sum);
  });
}

template <typename T, int kPack>
__global__ void __launch_bounds__(kThreads, kBlocksOnSm)
    BackwardKernel(AtrousMap map, const T* __restrict__ output_gradient, Branches<const T> branches,
                   T* __restrict__ x_gradient) {
  __shared__ Left<T, false> left;
  __shared__ Right<T, true> right;
  __shared__ TilePixels pixels;
  const int64_t row_tiles = TilesOf(map.Pixels());
  const int64_t first_pixel = blockIdx.x % row_tiles * kTile;
  const int64_t first_channel = blockIdx.x / row_tiles * kTile;
  TileSums<T, false, true> sums;
  for (int n = 0; n < branches.number; ++n) {
    const AtrousBranch<const T> branch = branches.all[n];
    const int64_t filters = branch.filters;
    for (int64_t tap = 0; filters > 0 && tap < branch.Taps(); ++tap) {
      const int64_t i = tap / branch.kernel_width, j = tap % branch.kernel_width;
      const int64_t down = ReachOfTap(i, branch.kernel_height, branch.rate, map.height).offset;
      const int64_t right_of = ReachOfTap(j, branch.kernel_width, branch.rate, map.width).offset;
      if (!pixels.Find(map, first_pixel, -down, -right_of)) continue;
      const T* const weights = branch.kernel + (tap * map.in_channels + first_channel) * filters;
      AddTap<kPack, true>(pixels, output_gradient + branch.first_filter, map.filters, filters, left,
                          right, sums, [&](int64_t first, int column, int d) -> const T* {
                            return first_channel + column < map.in_channels && first + d < filters
                                       ? weights + column * filters + first + d
                                       : nullptr;
                          });
    }
  }
  sums.ForEach([&](int row, int column, AccumulatorOf<T> sum) {
    const int64_t pixel = first_pixel + row, channel = first_channel + column;
    if (pixel >= map.Pixels() || channel >= map.in_channels) return;
    x_gradient[pixel * map.in_channels + channel] = FromFloat<T>(sum);
  });
}

// The pixels from which a tap finds the map, one after the other: the depth of its sums.
struct ReachedPixels {
  AtrousReach rows, columns;
  int64_t width, height, number;

  __device__ ReachedPixels(const AtrousMap& map, const AtrousReach& rows,
                           const AtrousReach& columns)
      : rows(rows), columns(columns), width(map.width), height(map.height) {
    const bool any = rows.begin < rows.end && columns.begin < columns.end;
    number = any ? map.images * (rows.end - rows.begin) * (columns.end - columns.begin) : 0;
  }

  __device__ int64_t operator[](int64_t index) const {
    const int64_t x = index % (columns.end - columns.begin);
    index /= columns.end - columns.begin;
    const int64_t y = index % (rows.end - rows.begin), image = index / (rows.end - rows.begin);
    return (image * height + rows.begin + y) * width + columns.begin + x;
  }
};

template <typename T, int kPack>
__global__ void __launch_bounds__(kThreads, kBlocksOnSm)
    KernelBackwardKernel(AtrousMap map, const T* __restrict__ x,
                         const T* __restrict__ output_gradient, Branches<T> branches) {
  __shared__ Left<T, true> left;
  __shared__ Right<T, false> right;
  // A tap of a branch, a tile of channels and one of filters.
  const int64_t row_tiles = TilesOf(map.in_channels);
  const int64_t first_channel = blockIdx.x % row_tiles * kTile;
  int64_t rest = blockIdx.x / row_tiles;
  int n = 0;
  for (; rest >= TilesOf(branches.all[n].filters) * branches.all[n].Taps(); ++n) {
    rest -= TilesOf(branches.all[n].filters) * branches.all[n].Taps();
  }
  const AtrousBranch<T> branch = branches.all[n];
  const int64_t filters = branch.filters;
  const int64_t first_filter = rest % TilesOf(filters) * kTile, tap = rest / TilesOf(filters);
  const ReachedPixels pixels(
      map, ReachOfTap(tap / branch.kernel_width, branch.kernel_height, branch.rate, map.height),
      ReachOfTap(tap % branch.kernel_width, branch.kernel_width, branch.rate, map.width));
  const T* const from_x =
      x + (pixels.rows.offset * map.width + pixels.columns.offset) * map.in_channels +
      first_channel;
  const T* const from_gradient = output_gradient + branch.first_filter + first_filter;
  TileSums<T, true, false> sums;
  for (int64_t first = 0; first < pixels.number; first += kDepth<T>) {
    left.template Fill<kPack>([&](int d, int row) -> const T* {
      return first + d < pixels.number && first_channel + row < map.in_channels
                 ? from_x + pixels[first + d] * map.in_channels + row
                 : nullptr;
    });
    right.template Fill<kPack>([&](int d, int column) -> const T* {
      return first + d < pixels.number && first_filter + column < filters
                 ? from_gradient + pixels[first + d] * map.filters + column
                 : nullptr;
    });
    __syncthreads();
    sums.Add(left, right);
    __syncthreads();
  }
  T* const to = branch.kernel + (tap * map.in_channels + first_channel) * filters + first_filter;
  sums.ForEach([&](int row, int column, AccumulatorOf<T> sum) {
    if (first_channel + row >= map.in_channels || first_filter + column >= filters) return;
    to[row * filters + column] = FromFloat<T>(sum);
  });
}

// Calls launch(kernels' pack): wide where every row that is read starts and ends with a pack.
template <typename T, typename Data, typename Launch>
void ForPack(const AtrousMap& map, Span<const AtrousBranch<Data>> branches, const T* one,
             const T* other, Launch launch) {
  constexpr int kPack = kWidePack<T>;
  bool packs = Packs<kPack>(map.in_channels, one) && Packs<kPack>(map.filters, other);
  for (const AtrousBranch<Data>& branch : branches) {
    packs = packs && Packs<kPack>(branch.filters, branch.kernel);
  }
  if (packs) {
    launch(std::integral_constant<int, kPack>());
  } else {
    launch(std::integral_constant<int, 1>());
  }
}

}  // namespace

template <typename T>
const char* AtrousPyramidForwardCuda(const AtrousMap& map, const T* x,
                                     Span<const AtrousBranch<const T>> branches, const T* biases,
                                     bool relu, T* output, void* stream) {
  int64_t tiles = 0;
  for (const auto& branch : branches) tiles += TilesOf(branch.filters);
  tiles *= TilesOf(map.Pixels());
  if (tiles == 0) return nullptr;
  ForPack(map, branches, x, x, [&](auto pack) {
    ForwardKernel<T, decltype(pack)::value>
        <<<BlocksFor(tiles, 1), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
            map, x, Branches<const T>(branches), biases, relu, output);
  });
  return LastCudaError();
}

template <typename T>
const char* AtrousPyramidBackwardCuda(const AtrousMap& map, const T* output_gradient,
                                      Span<const AtrousBranch<const T>> branches, T* x_gradient,
                                      void* stream) {
  const int64_t tiles = TilesOf(map.Pixels()) * TilesOf(map.in_channels);
  if (tiles == 0) return nullptr;
  ForPack(map, branches, output_gradient, output_gradient, [&](auto pack) {
    BackwardKernel<T, decltype(pack)::value>
        <<<BlocksFor(tiles, 1), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
            map, output_gradient, Branches<const T>(branches), x_gradient);
  });
  return LastCudaError();
}

template <typename T>
const char* AtrousPyramidKernelBackwardCuda(const AtrousMap& map, const T* x,
                                            const T* output_gradient,
                                            Span<const AtrousBranch<T>> kernel_gradients,
                                            void* stream) {
  int64_t tiles = 0;
  for (const auto& branch : kernel_gradients) tiles += TilesOf(branch.filters) * branch.Taps();
  tiles *= TilesOf(map.in_channels);
  if (tiles == 0) return nullptr;
  ForPack(map, kernel_gradients, x, output_gradient, [&](auto pack) {
    KernelBackwardKernel<T, decltype(pack)::value>
        <<<BlocksFor(tiles, 1), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
            map, x, output_gradient, Branches<T>(kernel_gradients));
  });
  return LastCudaError();
}

#define KVISION_ATROUS(T)                                                                          \
  template const char* AtrousPyramidForwardCuda<T>(                                                \
      const AtrousMap&, const T*, Span<const AtrousBranch<const T>>, const T*, bool, T*, void*);   \
  template const char* AtrousPyramidBackwardCuda<T>(const AtrousMap&, const T*,                    \
                                                    Span<const AtrousBranch<const T>>, T*, void*); \
  template const char* AtrousPyramidKernelBackwardCuda<T>(const AtrousMap&, const T*, const T*,    \
                                                          Span<const AtrousBranch<T>>, void*);
KVISION_ATROUS(Half)
KVISION_ATROUS(BFloat16)
KVISION_ATROUS(float)
KVISION_ATROUS(double)
#undef KVISION_ATROUS

}  // namespace kvision
