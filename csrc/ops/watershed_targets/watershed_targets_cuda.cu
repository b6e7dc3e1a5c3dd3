// Separable passes: a thread a column, down and up; a thread a pixel along the rows; a thread a
// pixel for the filter. Before them, a thread a pixel counts the areas into a hash table.
#include <algorithm>
#include <cstdint>

#include "common/launch.cuh"
#include "ops/watershed_targets/watershed_targets.h"

namespace kvision {
namespace {

constexpr int kThreads = 256;

// How many pixels each instance of an image has: a hash table for every image, since ids are any
// numbers. They are at most half full.
struct Areas {
  int32_t* ids;  // 0 where there is none; null where nobody asks
  int32_t* pixels;
  uint32_t entries;  // of one image, a power of two

  // The entry of an id; `is_it(entry)` says whether that is where it is or belongs.
  template <typename IsIt>
  __device__ int64_t Find(int64_t image, int32_t id, const IsIt& is_it) const {
    const uint32_t hash = static_cast<uint32_t>(id) * 0x9e3779b1u;
    uint32_t at = (hash ^ hash >> 15) & (entries - 1);
    while (!is_it(image * entries + at)) at = (at + 1) & (entries - 1);
    return image * entries + at;
  }

  __device__ void Add(int64_t image, int32_t id, int32_t number) const {
    const int64_t entry = Find(image, id, [this, id](int64_t at) {
      const int32_t found = atomicCAS(&ids[at], 0, id);
      return found == 0 || found == id;
    });
    atomicAdd(&pixels[entry], number);
  }

  __device__ int32_t Of(int64_t image, int32_t id) const {
    return pixels[Find(image, id, [this, id](int64_t at) { return ids[at] == id; })];
  }
};

struct LevelEdges {
  float edges[kMaxLevels];
  int32_t number;
};

// What all kernels are given.
struct Images {
  const int32_t* __restrict__ instances;
  int64_t batch;
  int32_t height, width;
  bool image_border_is_outside;
  const int32_t* has_others;  // of each image, whether its first pixel's id is not all it has

  __device__ int64_t Size() const { return int64_t{height} * width; }
  __device__ int64_t Total() const { return batch * Size(); }
  __device__ bool IsFramed(int64_t image) const {
    return image_border_is_outside || has_others[image] == 0;
  }
};

__global__ void OthersKernel(Images images, int32_t* has_others) {
  const int64_t pixel = ThreadInGrid();
  if (pixel >= images.Total()) return;
  const int64_t image = pixel / images.Size();
  if (images.instances[pixel] != images.instances[image * images.Size()]) has_others[image] = 1;
}

// Lanes that see one instance count together.
__global__ void AreasKernel(Images images, Areas areas) {
  const int64_t pixel = ThreadInGrid();
  const int32_t id = pixel < images.Total() ? images.instances[pixel] : 0;
  const unsigned counting = __ballot_sync(kAllLanes, id > 0);
  if (id <= 0) return;
  const int64_t image = pixel / images.Size();
  const unsigned same =
      __match_any_sync(counting, id) & __match_any_sync(counting, static_cast<int32_t>(image));
  if (__ffs(same) - 1 == static_cast<int>(threadIdx.x % kWarp)) areas.Add(image, id, __popc(same));
}

// The squared distance of every pixel to the next one of another id within its column.
__global__ void ColumnsKernel(Images images, int32_t* __restrict__ squares) {
  constexpr int32_t kFar = 1 << 15;
  const int64_t column = ThreadInGrid();
  if (column >= images.batch * images.width) return;
  const int64_t image = column / images.width;
  const int64_t first = image * images.Size() + column % images.width;
  const int64_t last = first + images.Size() - images.width;
  const int32_t start = images.IsFramed(image) ? 0 : kFar;
  int32_t distance = start, before = images.instances[first];
  for (int64_t at = first; at <= last; at += images.width) {
    const int32_t id = images.instances[at];
    distance = id == before ? distance + 1 : 1;
    before = id;
    squares[at] = distance;
  }
  distance = start;
  for (int64_t at = last; at >= first; at -= images.width) {
    const int32_t id = images.instances[at];
    distance = id == before ? distance + 1 : 1;
    before = id;
    const int32_t nearer = min(distance, squares[at]);
    squares[at] = nearer >= kFar ? kFarSquared : nearer * nearer;
  }
}

// Looks farther and farther to both sides until what was found is nearer than that.
__global__ void RowsKernel(Images images, const int32_t* __restrict__ squares, Areas areas,
                           int64_t min_area, float* __restrict__ distance,
                           float* __restrict__ weight) {
  const int64_t pixel = ThreadInGrid();
  if (pixel >= images.Total()) return;
  const int32_t id = images.instances[pixel];
  const int64_t image = pixel / images.Size();
  const int32_t pixels = id > 0 && areas.ids != nullptr ? areas.Of(image, id) : 0;
  const bool is_instance = id > 0 && pixels >= min_area;
  if (weight != nullptr) {
    weight[pixel] = is_instance ? kWeightOfOnePixel / sqrtf(static_cast<float>(pixels)) : 0.0f;
  }
  int32_t nearest = is_instance ? squares[pixel] : 0;
  if (is_instance) {
    const auto x = static_cast<int32_t>(pixel % images.width);
    const int32_t before = x, behind = images.width - 1 - x;
    const int32_t beyond = images.IsFramed(image) ? 0 : kFarSquared;
    const int32_t last = max(before, behind) + 1;
    for (int32_t offset = 1; offset <= last && nearest > offset * offset; ++offset) {
      const auto seen = [&](int64_t at) { return images.instances[at] == id ? squares[at] : 0; };
      const int32_t left = offset <= before ? seen(pixel - offset) : beyond;
      const int32_t right = offset <= behind ? seen(pixel + offset) : beyond;
      nearest = min(nearest, min(left, right) + offset * offset);
    }
  }
  distance[pixel] = sqrtf(static_cast<float>(nearest));
}

__global__ void DirectionsKernel(Images images, const float* __restrict__ distance,
                                 LevelEdges levels, float* __restrict__ direction,
                                 int32_t* __restrict__ level) {
  const int64_t pixel = ThreadInGrid();
  if (pixel >= images.Total()) return;
  const float here = distance[pixel];
  const int32_t id = images.instances[pixel];
  const auto x = static_cast<int32_t>(pixel % images.width);
  const auto y = static_cast<int32_t>(pixel / images.width % images.height);
  float along_x = 0.0f, along_y = 0.0f;
  if (here > 0.0f) {
    const bool framed = images.IsFramed(pixel / images.Size());
    const int64_t first = pixel - int64_t{y} * images.width - x;
    const auto own = [&](int32_t dy, int32_t dx) {
      const int32_t v = min(max(y + dy, 0), images.height - 1);
      const int32_t u = min(max(x + dx, 0), images.width - 1);
      const int64_t at = first + int64_t{v} * images.width + u;
      const bool inside = v == y + dy && u == x + dx;
      return (inside || !framed) && images.instances[at] == id ? distance[at] : 0.0f;
    };
    // As on the CPU, equal terms on both sides give equal sums.
    const auto side = [](float corner, float middle, float other_corner) {
      return (corner + other_corner) + (middle + middle);
    };
    const float corners[] = {own(-1, -1), own(-1, 1), own(1, -1), own(1, 1)};
    along_x = side(corners[1], own(0, 1), corners[3]) - side(corners[0], own(0, -1), corners[2]);
    along_y = side(corners[2], own(1, 0), corners[3]) - side(corners[0], own(-1, 0), corners[1]);
    const bool slopes = fmaxf(fabsf(along_x), fabsf(along_y)) > here * kRoundingOfSlope;
    const float length = slopes ? sqrtf(along_x * along_x + along_y * along_y) : 1.0f;
    along_x = slopes ? along_x / length : 0.0f;
    along_y = slopes ? along_y / length : 0.0f;
  }
  int32_t k = 0;
  while (k + 1 < levels.number && here > levels.edges[k + 1]) ++k;
  direction[2 * pixel] = along_x;
  direction[2 * pixel + 1] = along_y;
  level[pixel] = here > 0.0f ? k : 0;
}

// Of the table of one image.
uint32_t Entries(const WatershedTargetsParameters& parameters) {
  uint32_t entries = 1;
  while (entries < 2 * parameters.height * parameters.width) entries *= 2;
  return entries;
}

}  // namespace

int64_t WatershedTargetsCudaWorkspace(const WatershedTargetsParameters& parameters,
                                      bool distance_alone) {
  const int64_t pixels = parameters.height * parameters.width;
  const int64_t table = distance_alone ? 0 : 2 * int64_t{Entries(parameters)};
  return parameters.batch * (1 + pixels + table) * static_cast<int64_t>(sizeof(int32_t));
}

const char* WatershedTargetsCuda(const WatershedTargetsParameters& parameters,
                                 const int32_t* instances, const WatershedTargets& targets,
                                 void* workspace, void* stream) {
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  const int64_t batch = parameters.batch, total = batch * parameters.height * parameters.width;
  const unsigned blocks = BlocksFor(total, kThreads);
  int32_t* const has_others = static_cast<int32_t*>(workspace);
  int32_t* const squares = has_others + batch;
  Areas areas = {nullptr, nullptr, 0};
  if (!targets.distance_alone()) {
    const uint32_t entries = Entries(parameters);
    areas = {squares + total, squares + total + batch * entries, entries};
    cudaMemsetAsync(areas.ids, 0, 2 * batch * entries * sizeof(int32_t), cuda_stream);
  }
  const Images images = {instances,
                         batch,
                         static_cast<int32_t>(parameters.height),
                         static_cast<int32_t>(parameters.width),
                         parameters.image_border_is_outside,
                         has_others};
  cudaMemsetAsync(has_others, 0, batch * sizeof(int32_t), cuda_stream);
  OthersKernel<<<blocks, kThreads, 0, cuda_stream>>>(images, has_others);
  if (areas.ids != nullptr) AreasKernel<<<blocks, kThreads, 0, cuda_stream>>>(images, areas);
  ColumnsKernel<<<BlocksFor(batch * parameters.width, kWarp), kWarp, 0, cuda_stream>>>(images,
                                                                                       squares);
  RowsKernel<<<blocks, kThreads, 0, cuda_stream>>>(images, squares, areas, parameters.min_area,
                                                   targets.distance, targets.weight);
  if (!targets.distance_alone()) {
    LevelEdges levels = {{}, static_cast<int32_t>(parameters.level_edges.size)};
    std::copy(parameters.level_edges.begin(), parameters.level_edges.end(), levels.edges);
    DirectionsKernel<<<blocks, kThreads, 0, cuda_stream>>>(images, targets.distance, levels,
                                                           targets.direction, targets.level);
  }
  return LastCudaError();
}

}  // namespace kvision
