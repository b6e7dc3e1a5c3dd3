// A thread a pixel, class after class.
#include <cstdint>
#include <limits>
#include <utility>

#include "common/components.cuh"
#include "ops/watershed_instances/watershed_instances.h"

namespace kvision {
namespace {

__global__ void CutKernel(const int32_t* __restrict__ energy, const int32_t* __restrict__ semantic,
                          PixelGrid grid, int32_t cut, int32_t its_class, bool* __restrict__ mask) {
  const int64_t at = ThreadInGrid();
  if (at >= grid.Total()) return;
  mask[at] = energy[at] > cut && (semantic == nullptr || semantic[at] == its_class);
}

// Adds the pixels that are not `outside` to their sets' areas, those of a warp at once.
__global__ void AreasKernel(const bool* __restrict__ mask, bool outside, PixelGrid grid,
                            const int32_t* __restrict__ sets, int32_t* areas) {
  const int64_t at = ThreadInGrid();
  const bool inside = at < grid.Total() && mask[at] != outside;
  const int64_t set = inside ? at / grid.Size() * grid.Size() + sets[at] : -1;
  const unsigned same = __match_any_sync(kAllLanes, static_cast<long long>(set));
  const bool is_first = __ffs(static_cast<int>(same)) - 1 == static_cast<int>(threadIdx.x % kWarp);
  if (inside && is_first) atomicAdd(areas + set, __popc(same));
}

// Turns the pixels over that are not `outside` and whose set has less than `area`; in images of
// which `has_some` is 0, none.
__global__ void TurnSmallKernel(bool outside, PixelGrid grid, const int32_t* __restrict__ sets,
                                const int32_t* __restrict__ areas, int32_t area,
                                const int32_t* __restrict__ has_some, bool* mask) {
  const int64_t at = ThreadInGrid();
  if (at >= grid.Total() || mask[at] == outside) return;
  const int64_t image = at / grid.Size();
  if (has_some != nullptr && has_some[image] == 0) return;
  if (areas[image * grid.Size() + sets[at]] < area) mask[at] = outside;
}

__global__ void HasSomeKernel(const bool* __restrict__ mask, PixelGrid grid, int32_t* has_some) {
  const int64_t at = ThreadInGrid();
  if (at < grid.Total() && mask[at]) has_some[at / grid.Size()] = 1;
}

// The greatest label `step` pixels to either side of what each pixel has seen, along rows or
// columns. Off the edge it is that of the edge, which is no farther.
__global__ void GrowKernel(const int32_t* __restrict__ labels, PixelGrid grid, bool in_rows,
                           int32_t step, int32_t* __restrict__ grown) {
  const int64_t at = ThreadInGrid();
  if (at >= grid.Total()) return;
  const auto pixel = static_cast<int32_t>(at % grid.Size());
  const int32_t place = in_rows ? pixel % grid.width : pixel / grid.width;
  const int32_t last = (in_rows ? grid.width : grid.height) - 1;
  const int64_t stride = in_rows ? 1 : grid.width;
  const int64_t back = min(step, place) * stride, forth = min(step, last - place) * stride;
  grown[at] = max(labels[at], max(labels[at - back], labels[at + forth]));
}

__global__ void PaintKernel(const int32_t* __restrict__ grown, const int32_t* __restrict__ own,
                            const bool* __restrict__ grow_within, PixelGrid grid,
                            const int32_t* __restrict__ ids_before,
                            int32_t* __restrict__ instances) {
  const int64_t at = ThreadInGrid();
  if (at >= grid.Total()) return;
  const int32_t label = grow_within == nullptr || grow_within[at] ? grown[at] : own[at];
  if (label > 0) instances[at] = ids_before[at / grid.Size()] + label;
}

__global__ void CountKernel(const int32_t* __restrict__ sums, PixelGrid grid, int32_t* num_ids) {
  const int64_t image = ThreadInGrid();
  if (image >= grid.batch) return;
  num_ids[image] += sums[(image + 1) * grid.Size() - 1];
}

__global__ void FillKernel(int64_t total, int32_t value, int32_t* __restrict__ numbers) {
  const int64_t at = ThreadInGrid();
  if (at < total) numbers[at] = value;
}

// The first pixel of each id.
__global__ void FirstsKernel(const int32_t* __restrict__ instances, PixelGrid grid,
                             int32_t* firsts) {
  const int64_t at = ThreadInGrid();
  if (at >= grid.Total()) return;
  const int32_t id = instances[at];
  const auto pixel = static_cast<int32_t>(at % grid.Size());
  if (id == 0 || (pixel > 0 && instances[at - 1] == id)) return;
  atomicMin(firsts + (at - pixel) + id - 1, pixel);
}

__global__ void BeginsKernel(const int32_t* __restrict__ instances, PixelGrid grid,
                             const int32_t* __restrict__ firsts, int32_t* __restrict__ begins) {
  const int64_t at = ThreadInGrid();
  if (at >= grid.Total()) return;
  const int32_t id = instances[at];
  const auto pixel = static_cast<int32_t>(at % grid.Size());
  begins[at] = id > 0 && firsts[(at - pixel) + id - 1] == pixel;
}

__global__ void RenumberKernel(PixelGrid grid, const int32_t* __restrict__ firsts,
                               const int32_t* __restrict__ sums, int32_t* instances) {
  const int64_t at = ThreadInGrid();
  if (at >= grid.Total() || instances[at] == 0) return;
  const int64_t start = at / grid.Size() * grid.Size();
  instances[at] = sums[start + firsts[start + instances[at] - 1]];
}

PixelGrid GridOf(const WatershedInstancesParameters& parameters) {
  return {parameters.batch, static_cast<int32_t>(parameters.height),
          static_cast<int32_t>(parameters.width)};
}

// Device memory of a run.
struct Memory {
  int32_t *sets, *numbers, *labels, *grown;  // of pixels
  int32_t *num_ids, *has_some;               // of images
  bool* mask;
  void* sums;
  int64_t bytes;

  Memory(PixelGrid grid, void* start) {
    bytes = 0;
    const auto take = [&](int64_t size) {
      char* const part = static_cast<char*>(start) + bytes;
      bytes += size;
      return part;
    };
    for (int32_t** pixels : {&sets, &numbers, &labels, &grown}) {
      *pixels = reinterpret_cast<int32_t*>(take(RoomFor(grid)));
    }
    sums = take(static_cast<int64_t>(SumsWorkspace(grid)));
    bytes = (bytes + 3) / 4 * 4;
    for (int32_t** images : {&num_ids, &has_some}) {
      *images = reinterpret_cast<int32_t*>(take(grid.batch * sizeof(int32_t)));
    }
    mask = reinterpret_cast<bool*>(take(grid.Total()));
  }
};

void TurnSmallComponents(bool outside, PixelGrid grid, int64_t connectivity, int64_t area,
                         const int32_t* has_some, const Memory& memory, cudaStream_t stream) {
  const unsigned blocks = grid.Blocks();
  FindSets(memory.mask, outside, grid, connectivity, memory.sets, nullptr, stream);
  FillKernel<<<blocks, kPixelThreads, 0, stream>>>(grid.Total(), 0, memory.numbers);
  AreasKernel<<<blocks, kPixelThreads, 0, stream>>>(memory.mask, outside, grid, memory.sets,
                                                    memory.numbers);
  TurnSmallKernel<<<blocks, kPixelThreads, 0, stream>>>(outside, grid, memory.sets, memory.numbers,
                                                        static_cast<int32_t>(area), has_some,
                                                        memory.mask);
}

// Returns where the labels are when they have grown: in `labels` if they have not.
const int32_t* Grow(PixelGrid grid, int64_t grow, const Memory& memory, cudaStream_t stream) {
  const int32_t* from = memory.labels;
  int32_t *to = memory.grown, *other = memory.sets;
  for (const bool in_rows : {false, true}) {
    const int64_t most = std::min<int64_t>(grow, (in_rows ? grid.width : grid.height) - 1);
    for (int64_t reached = 0; reached < most;) {
      // Three windows beside one another.
      const int64_t step = std::min(2 * reached + 1, most - reached);
      GrowKernel<<<grid.Blocks(), kPixelThreads, 0, stream>>>(from, grid, in_rows,
                                                              static_cast<int32_t>(step), to);
      from = to;
      std::swap(to, other);
      reached += step;
    }
  }
  return from;
}

}  // namespace

int64_t WatershedInstancesCudaWorkspace(const WatershedInstancesParameters& parameters) {
  return Memory(GridOf(parameters), nullptr).bytes;
}

const char* WatershedInstancesCuda(const WatershedInstancesParameters& parameters,
                                   const int32_t* energy, const int32_t* semantic,
                                   const bool* grow_within, int32_t* instances, void* workspace,
                                   void* stream) {
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  const PixelGrid grid = GridOf(parameters);
  const Memory memory(grid, workspace);
  const unsigned blocks = grid.Blocks(), image_blocks = BlocksFor(grid.batch, kPixelThreads);
  FillKernel<<<blocks, kPixelThreads, 0, cuda_stream>>>(grid.Total(), 0, instances);
  FillKernel<<<image_blocks, kPixelThreads, 0, cuda_stream>>>(grid.batch, 0, memory.num_ids);
  const auto num_classes = static_cast<int32_t>(parameters.cut.size());
  for (int32_t index = 0; index < num_classes; ++index) {
    if (semantic == nullptr && index > 0) break;
    CutKernel<<<blocks, kPixelThreads, 0, cuda_stream>>>(
        energy, semantic, grid, static_cast<int32_t>(parameters.cut[index]), index + 1,
        memory.mask);
    if (parameters.min_area[index] > 1) {
      TurnSmallComponents(false, grid, 4, parameters.min_area[index], nullptr, memory, cuda_stream);
    }
    if (parameters.fill_holes > 1) {
      FillKernel<<<image_blocks, kPixelThreads, 0, cuda_stream>>>(grid.batch, 0, memory.has_some);
      HasSomeKernel<<<blocks, kPixelThreads, 0, cuda_stream>>>(memory.mask, grid, memory.has_some);
      TurnSmallComponents(true, grid, 12 - parameters.connectivity, parameters.fill_holes,
                          memory.has_some, memory, cuda_stream);
    }
    FindSets(memory.mask, false, grid, parameters.connectivity, memory.sets, memory.numbers,
             cuda_stream);
    SumUp(grid, memory.numbers, memory.sums, cuda_stream);
    LabelsKernel<<<blocks, kPixelThreads, 0, cuda_stream>>>(memory.mask, grid, memory.sets,
                                                            memory.numbers, memory.labels);
    const int32_t* const grown = Grow(grid, parameters.grow[index], memory, cuda_stream);
    PaintKernel<<<blocks, kPixelThreads, 0, cuda_stream>>>(grown, memory.labels, grow_within, grid,
                                                           memory.num_ids, instances);
    CountKernel<<<image_blocks, kPixelThreads, 0, cuda_stream>>>(memory.numbers, grid,
                                                                 memory.num_ids);
  }
  FillKernel<<<blocks, kPixelThreads, 0, cuda_stream>>>(
      grid.Total(), std::numeric_limits<int32_t>::max(), memory.sets);
  FirstsKernel<<<blocks, kPixelThreads, 0, cuda_stream>>>(instances, grid, memory.sets);
  BeginsKernel<<<blocks, kPixelThreads, 0, cuda_stream>>>(instances, grid, memory.sets,
                                                          memory.numbers);
  SumUp(grid, memory.numbers, memory.sums, cuda_stream);
  RenumberKernel<<<blocks, kPixelThreads, 0, cuda_stream>>>(grid, memory.sets, memory.numbers,
                                                            instances);
  return LastCudaError();
}

}  // namespace kvision
