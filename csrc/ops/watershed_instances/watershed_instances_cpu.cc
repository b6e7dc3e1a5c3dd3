// Class after class: a mask with a bit a pixel, its components, and their pixels painted.
#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "common/isa.h"
#include "ops/watershed_instances/watershed_instances.h"

#define KVISION_ISA_FILE "ops/watershed_instances/watershed_instances_rows.inc"
#include "common/foreach_isa.h"

namespace kvision {
namespace {

constexpr int64_t kStrip = 64;  // columns

struct Loops {
  decltype(&baseline::CutRow) cut;
  decltype(&baseline::GreatestOfLines) greatest_of_lines;
  decltype(&baseline::PaintRow) paint;
  decltype(&baseline::NextOther) next_other;
};

Loops LoopsForThisProcessor() {
  switch (CurrentIsa()) {
#ifdef __x86_64__
    case Isa::kAvx512:
      return {&avx512::CutRow, &avx512::GreatestOfLines, &avx512::PaintRow, &avx512::NextOther};
    case Isa::kAvx2:
      return {&avx2::CutRow, &avx2::GreatestOfLines, &avx2::PaintRow, &avx2::NextOther};
#endif
    default:
      return {&baseline::CutRow, &baseline::GreatestOfLines, &baseline::PaintRow,
              &baseline::NextOther};
  }
}

// The masks, components and labels of a batch are those of its rows, one below the other.
template <typename Body>
void ForEach(int64_t total, int64_t cost, ParallelFor parallel_for, Body&& body) {
  parallel_for(total, cost + 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) body(i);
  });
}

// Sets or clears in `target` the pixels of components of fewer than `area`.
void PutSmallComponents(const BitMasks& masks, int64_t height, int64_t connectivity, int64_t area,
                        bool set, const BitMasks& target, ParallelFor parallel_for) {
  const Components components(masks, height, connectivity, parallel_for);
  ForEach(masks.rows / height, height * masks.words, parallel_for, [&](int64_t image) {
    const std::vector<int32_t> areas = components.Areas(image);
    for (int64_t y = image * height; y < (image + 1) * height; ++y) {
      components.ForEachRunOf(y, [&](int64_t begin, int64_t end, int32_t label) {
        if (areas[label] < area) PutBits(target[y], begin, end, set);
      });
    }
  });
}

// What is not foreground, in images that have some.
void InvertImages(const BitMasks& masks, int64_t height, const BitMasks& inverse,
                  ParallelFor parallel_for) {
  const int64_t words = masks.words, size = height * words;
  ForEach(masks.rows / height, size, parallel_for, [&](int64_t image) {
    const uint64_t* const from = masks[image * height];
    uint64_t* const to = inverse[image * height];
    uint64_t any = 0;
    for (int64_t i = 0; i < size; ++i) any |= from[i];
    for (int64_t i = 0; i < size; ++i) {
      to[i] = any == 0 ? 0 : ~from[i] & (i % words == words - 1 ? masks.last_word : ~uint64_t{0});
    }
  });
}

// The greatest of each pixel's and of the `grow` pixels above and below it.
void GrowInColumns(const Loops& loops, int64_t images, int64_t height, int64_t width, int64_t grow,
                   int32_t* labels, ParallelFor parallel_for) {
  const int64_t strips = (width + kStrip - 1) / kStrip;
  grow = std::min(grow, height - 1);
  ForEach(images * strips, 8 * height * kStrip, parallel_for, [&](int64_t i) {
    const int64_t begin = i % strips * kStrip, columns = std::min(kStrip, width - begin);
    int32_t* const image = labels + i / strips * height * width + begin;
    std::vector<int32_t> strip((grow + height) * kStrip);
    for (int64_t y = 0; y < height; ++y) {
      std::copy_n(image + y * width, columns, strip.data() + (grow + y) * kStrip);
    }
    loops.greatest_of_lines(strip.data(), static_cast<int64_t>(strip.size()), kStrip, 2 * grow + 1);
    for (int64_t y = 0; y < height; ++y) {
      std::copy_n(strip.data() + y * kStrip, columns, image + y * width);
    }
  });
}

// Paints the components of a class.
void Paint(const Loops& loops, const Components& components,
           const WatershedInstancesParameters& parameters, int64_t grow, const bool* grow_within,
           const std::vector<int32_t>& ids_before, int32_t* labels, int32_t* instances,
           ParallelFor parallel_for) {
  const int64_t height = parameters.height, width = parameters.width;
  const int64_t rows = parameters.batch * height;
  if (grow > 0) {
    ForEach(rows, width / 4, parallel_for,
            [&](int64_t y) { components.WriteRow(y, labels + y * width); });
    GrowInColumns(loops, parameters.batch, height, width, grow, labels, parallel_for);
  }
  const int64_t reach = std::min(grow, width - 1);
  parallel_for(rows, 2 * width + 1, [&](int64_t begin, int64_t end) {
    std::vector<int32_t> own(width), grown(reach + width);
    for (int64_t y = begin; y < end; ++y) {
      if (grow == 0 || grow_within != nullptr) components.WriteRow(y, own.data());
      if (grow > 0) {
        std::fill_n(grown.data(), reach, 0);
        std::copy_n(labels + y * width, width, grown.data() + reach);
        loops.greatest_of_lines(grown.data(), reach + width, 1, 2 * reach + 1);
      }
      loops.paint(grow > 0 ? grown.data() : own.data(), own.data(),
                  grow_within == nullptr ? nullptr : grow_within + y * width, width,
                  ids_before[y / height], instances + y * width);
    }
  });
}

// New ids in raster order of their first pixels, by old id; 0 for those that have no pixel left.
std::vector<int32_t> InRasterOrder(const Loops& loops, const int32_t* instances, int64_t size,
                                   int32_t number) {
  std::vector<int32_t> renamed(number + 1);
  int32_t count = 0;
  for (int64_t i = loops.next_other(instances, 0, size, 0); i < size;) {
    const int32_t id = instances[i];
    if (id > 0 && renamed[id] == 0) renamed[id] = ++count;
    i = loops.next_other(instances, i + 1, size, id);
  }
  return renamed;
}

}  // namespace

void WatershedInstancesCpu(const WatershedInstancesParameters& parameters, const int32_t* energy,
                           const int32_t* semantic, const bool* grow_within, int32_t* instances,
                           ParallelFor parallel_for) {
  const int64_t height = parameters.height, width = parameters.width, batch = parameters.batch;
  const int64_t rows = batch * height;
  if (rows * width == 0) return;
  const Loops loops = LoopsForThisProcessor();
  const BitMasks masks(rows, width), inverse(rows, width);
  const std::unique_ptr<int32_t[]> labels(new int32_t[rows * width]);
  std::vector<int32_t> num_ids(batch);
  ForEach(rows, width / 4, parallel_for,
          [&](int64_t y) { std::fill_n(instances + y * width, width, 0); });

  const auto num_classes = static_cast<int32_t>(parameters.cut.size());
  for (int32_t index = 0; index < num_classes; ++index) {
    if (semantic == nullptr && index > 0) break;
    ForEach(rows, width, parallel_for, [&](int64_t y) {
      loops.cut(energy + y * width, semantic == nullptr ? nullptr : semantic + y * width, width,
                static_cast<int32_t>(parameters.cut[index]), index + 1, masks[y]);
    });
    if (parameters.min_area[index] > 1) {
      PutSmallComponents(masks, height, 4, parameters.min_area[index], false, masks, parallel_for);
    }
    if (parameters.fill_holes > 1) {
      InvertImages(masks, height, inverse, parallel_for);
      PutSmallComponents(inverse, height, 12 - parameters.connectivity, parameters.fill_holes, true,
                         masks, parallel_for);
    }
    const Components components(masks, height, parameters.connectivity, parallel_for);
    Paint(loops, components, parameters, parameters.grow[index], grow_within, num_ids, labels.get(),
          instances, parallel_for);
    for (int64_t image = 0; image < batch; ++image) num_ids[image] += components.Count(image);
  }

  std::vector<std::vector<int32_t>> renamed(batch);
  ForEach(batch, height * width, parallel_for, [&](int64_t image) {
    renamed[image] =
        InRasterOrder(loops, instances + image * height * width, height * width, num_ids[image]);
  });
  ForEach(rows, width, parallel_for, [&](int64_t y) {
    const std::vector<int32_t>& names = renamed[y / height];
    int32_t* const row = instances + y * width;
    for (int64_t x = 0; x < width; ++x) row[x] = names[row[x]];
  });
}

}  // namespace kvision
