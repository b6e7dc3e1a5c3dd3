// A task owns a block of candidates, in one image or, where images share them, in all. It goes over
// the boxes with nothing but each candidate's best so far; of a box it keeps the greatest IoU in
// the block, so that a second pass over the blocks finds a box's best candidates where they are.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "common/isa.h"
#include "ops/match_boxes/match_boxes.h"

namespace kvision {
namespace {

constexpr int64_t kCandidateBlock = 256;

struct MatchedBox {
  float x1, y1, x2, y2, area;
};

// Candidates by coordinate; those that fill the last block up are empty.
struct CandidateBlock {
  float x1[kCandidateBlock], y1[kCandidateBlock], x2[kCandidateBlock], y2[kCandidateBlock];
  float area[kCandidateBlock];
  MatchedBox around;  // what all of them lie in; its area is not set
  int64_t size;
};

float Area(float x1, float y1, float x2, float y2) {
  return (x2 > x1 ? x2 - x1 : 0.0f) * (y2 > y1 ? y2 - y1 : 0.0f);
}

// An empty box in place of one with a corner that is NaN, which is to meet nothing.
MatchedBox BoxAt(const float* box) {
  const bool real = box[0] == box[0] && box[1] == box[1] && box[2] == box[2] && box[3] == box[3];
  if (!real) return {};
  return {box[0], box[1], box[2], box[3], Area(box[0], box[1], box[2], box[3])};
}

void Fill(const float* candidates, int64_t size, CandidateBlock* block) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  MatchedBox around = {kInfinity, kInfinity, -kInfinity, -kInfinity, 0};
  for (int64_t i = 0; i < kCandidateBlock; ++i) {
    MatchedBox candidate = {};
    if (i < size) {
      candidate = BoxAt(candidates + 4 * i);
      around.x1 = std::min(around.x1, candidate.x1);
      around.y1 = std::min(around.y1, candidate.y1);
      around.x2 = std::max(around.x2, candidate.x2);
      around.y2 = std::max(around.y2, candidate.y2);
    }
    block->x1[i] = candidate.x1;
    block->y1[i] = candidate.y1;
    block->x2[i] = candidate.x2;
    block->y2[i] = candidate.y2;
    block->area[i] = candidate.area;
  }
  block->around = around;
  block->size = size;
}

// Whether a candidate of the block may meet the box.
bool MayMeet(const CandidateBlock& block, const MatchedBox& box) {
  return block.around.x1 < box.x2 && block.around.y1 < box.y2 && box.x1 < block.around.x2 &&
         box.y1 < block.around.y2;
}

}  // namespace
}  // namespace kvision

#define KVISION_ISA_FILE "ops/match_boxes/match_boxes_block.inc"
#include "common/foreach_isa.h"

namespace kvision {
namespace {

struct BlockLoops {
  float (*match)(const CandidateBlock&, const MatchedBox&, int32_t index, float* best,
                 int32_t* match);
  void (*mark_highest)(const CandidateBlock&, const MatchedBox&, float highest, int32_t* status);
  void (*ignore_crowd)(const CandidateBlock&, const MatchedBox&, float overlap, int32_t* status);
};

BlockLoops LoopsForThisProcessor() {
  switch (CurrentIsa()) {
#ifdef __x86_64__
    case Isa::kAvx512:
      return {avx512::MatchBlock, avx512::MarkHighest, avx512::IgnoreCrowd};
    case Isa::kAvx2:
      return {avx2::MatchBlock, avx2::MarkHighest, avx2::IgnoreCrowd};
#endif
    default:
      return {baseline::MatchBlock, baseline::MarkHighest, baseline::IgnoreCrowd};
  }
}

// One image's boxes, and the greatest IoU that each has in every block of candidates.
struct Image {
  const float* boxes;
  const bool* valid;
  const bool* crowd;
  int64_t num_boxes;
  float* greatest;  // (blocks, num_boxes)
};

void MatchBlockOfImage(const BlockLoops& loops, const CandidateBlock& block, const Image& image,
                       const MatchBoxesAttributes& attributes, float* greatest, int32_t* matches,
                       int32_t* status) {
  float best[kCandidateBlock];
  int32_t match[kCandidateBlock], own_status[kCandidateBlock];
  const bool* end = image.valid + image.num_boxes;
  const bool* first_valid = std::find(image.valid, end, true);
  const bool any_valid = first_valid != end;
  std::fill_n(best, kCandidateBlock, any_valid ? 0.0f : -1.0f);
  std::fill_n(match, kCandidateBlock,
              any_valid ? static_cast<int32_t>(first_valid - image.valid) : 0);
  for (int64_t index = 0; index < image.num_boxes; ++index) {
    const MatchedBox box = BoxAt(image.boxes + 4 * index);
    const bool meets = image.valid[index] && MayMeet(block, box);
    greatest[index] =
        meets ? loops.match(block, box, static_cast<int32_t>(index), best, match) : 0.0f;
  }
  for (int64_t i = 0; i < kCandidateBlock; ++i) {
    own_status[i] = best[i] >= attributes.positive_threshold  ? kPositive
                    : best[i] < attributes.negative_threshold ? kNegative
                                                              : kIgnored;
  }
  for (int64_t index = 0; index < image.num_boxes; ++index) {
    if (!image.crowd[index]) continue;
    loops.ignore_crowd(block, BoxAt(image.boxes + 4 * index), attributes.crowd_overlap, own_status);
  }
  std::copy_n(match, block.size, matches);
  std::copy_n(own_status, block.size, status);
}

void MarkBlockOfImage(const BlockLoops& loops, const CandidateBlock& block, const Image& image,
                      const float* greatest, const float* highest, int32_t* status) {
  int32_t own_status[kCandidateBlock] = {};
  std::copy_n(status, block.size, own_status);
  for (int64_t index = 0; index < image.num_boxes; ++index) {
    if (highest[index] > 0 && greatest[index] == highest[index]) {
      loops.mark_highest(block, BoxAt(image.boxes + 4 * index), highest[index], own_status);
    }
  }
  std::copy_n(own_status, block.size, status);
}

}  // namespace

void MatchBoxesCpu(const float* boxes, const bool* valid, const bool* crowd,
                   const float* candidates, const MatchBoxesShape& shape,
                   const MatchBoxesAttributes& attributes, int32_t* matches, int32_t* status,
                   ParallelFor parallel_for) {
  const BlockLoops loops = LoopsForThisProcessor();
  const int64_t blocks = (shape.num_candidates + kCandidateBlock - 1) / kCandidateBlock;
  const int64_t image_greatest = blocks * shape.num_boxes;
  std::vector<float> greatest(shape.batch * image_greatest);
  // Calls body(block number, candidates, image number, image) for each block of each image.
  const auto for_each_block = [&](auto body) {
    const int64_t sets = shape.shared_candidates ? 1 : shape.batch;
    const int64_t images = shape.shared_candidates ? shape.batch : 1;
    const int64_t cost = images * (shape.num_boxes + 4) * kCandidateBlock;
    parallel_for(sets * blocks, cost, [&](int64_t begin, int64_t end) {
      CandidateBlock block;
      for (int64_t task = begin; task < end; ++task) {
        const int64_t set = task / blocks, number = task % blocks;
        const int64_t first = number * kCandidateBlock;
        Fill(candidates + 4 * (set * shape.num_candidates + first),
             std::min(kCandidateBlock, shape.num_candidates - first), &block);
        for (int64_t image = set; image < set + images; ++image) {
          const int64_t first_box = image * shape.num_boxes;
          body(number, block, image,
               Image{boxes + 4 * first_box, valid + first_box, crowd + first_box, shape.num_boxes,
                     greatest.data() + image * image_greatest});
        }
      }
    });
  };

  for_each_block([&](int64_t number, const CandidateBlock& block, int64_t index,
                     const Image& image) {
    const int64_t first = index * shape.num_candidates + number * kCandidateBlock;
    MatchBlockOfImage(loops, block, image, attributes, image.greatest + number * shape.num_boxes,
                      matches + first, status + first);
  });
  if (!attributes.allow_low_quality || shape.num_boxes == 0) return;

  std::vector<float> highest(shape.batch * shape.num_boxes);
  for (int64_t image = 0; image < shape.batch; ++image) {
    for (int64_t number = 0; number < blocks; ++number) {
      for (int64_t index = 0; index < shape.num_boxes; ++index) {
        float& of_box = highest[image * shape.num_boxes + index];
        of_box =
            std::max(of_box, greatest[image * image_greatest + number * shape.num_boxes + index]);
      }
    }
  }
  for_each_block(
      [&](int64_t number, const CandidateBlock& block, int64_t index, const Image& image) {
        MarkBlockOfImage(loops, block, image, image.greatest + number * shape.num_boxes,
                         highest.data() + index * shape.num_boxes,
                         status + index * shape.num_candidates + number * kCandidateBlock);
      });
}

}  // namespace kvision
