// The boxes that a greedy suppression has kept so far, by place: a candidate is compared with those
// near it, not with all.
//
// - A grid of cells lies over the candidates. A kept box is written to every cell that it covers,
//   in blocks that a vector loop compares at once. One that covers many cells, the whole image say,
//   goes to a list that every candidate looks at instead.
// - An intersection of more than t of a box's area spans more than t of its width and of its
//   height. So it reaches into the box's core, what is left when t of the side, half of it at most,
//   is cut off at either end. A candidate looks only in the cells of its core; with thresholds
//   from 1/2 that is its centre, one cell as a rule.
// - Where the grid lies and how fine it is follows a few candidates. That is a guess which costs
//   time if it is wrong, not correctness: cells at the border reach to infinity, and the cell of a
//   coordinate never descends as the coordinate ascends.
// - Few candidates have no grid; all kept boxes are in the list then. The worst that boxes in odd
//   places can do is bring that back: every candidate is compared with every kept box.
//
// Memory is O(candidates): a box is in kMaxCellsPerBox cells at most.
#pragma once

#include <cstdint>
#include <vector>

#include "common/suppression.h"

namespace kvision {

// Boxes side by side for a vector loop. A slot without a box is infinite, which suppresses nothing.
struct KeptBlock {
  static constexpr int kSize = 16;
  alignas(64) float x1[kSize], y1[kSize], x2[kSize], y2[kSize], area[kSize];

  void Put(int slot, const Box& box, float box_area) {
    x1[slot] = box.x1, y1[slot] = box.y1, x2[slot] = box.x2, y2[slot] = box.y2;
    area[slot] = box_area;
  }
};

class KeptBoxes {
 public:
  // Forgets all boxes and lays the grid for the boxes of `set` at the low halves of `candidates`,
  // of which at most `max_kept` will be added.
  void Reset(const ScoredBoxes& set, const std::vector<uint64_t>& candidates, int64_t max_kept,
             float iou_threshold);

  // `box` has a positive finite area.
  void Add(const Box& box, float area) {
    const Corners cells = CellsOf(Floats{box.x1, box.y1, box.x2, box.y2});
    const int32_t width = cells[2] - cells[0] + 1, height = cells[3] - cells[1] + 1;
    if (!has_grid() || static_cast<int64_t>(width) * height > kMaxCellsPerBox) {
      const int slot = static_cast<int>(num_everywhere_++ % KeptBlock::kSize);
      if (slot == 0) everywhere_.push_back(kEmpty);
      everywhere_.back().Put(slot, box, area);
      return;
    }
    Cell* row = &cells_[cells[1] * columns_ + cells[0]];
    for (int32_t y = 0; y < height; ++y, row += columns_) {
      for (Cell* cell = row; cell != row + width; ++cell) {
        const uint32_t slot = cell->num_boxes++ % KeptBlock::kSize;
        if (slot == 0) {
          const auto block = static_cast<int32_t>(blocks_.size());
          (cell->oldest < 0 ? cell->oldest : newer_[cell->newest]) = block;
          cell->newest = block;
          newer_.push_back(-1);
          blocks_.push_back(kEmpty);
        }
        blocks_[cell->newest].Put(slot, box, area);
      }
    }
  }

  bool has_grid() const { return !cells_.empty(); }

  // The first and last column and row of a box's cells.
  typedef int32_t Corners __attribute__((vector_size(16)));  // left, top, right, bottom

  // The cells of the core of a box, in which, or everywhere, are all boxes that suppress it. Its
  // area is positive and finite.
  Corners CoreCells(const Box& box, float area) const {
    // Areas of very few bits are rounded too much to say anything about sides.
    const float cut = area > 0x1p-100f ? cut_ : 0.0f;
    const float cut_x = cut * (box.x2 - box.x1), cut_y = cut * (box.y2 - box.y1);
    return CellsOf(Floats{box.x1, box.y1, box.x2, box.y2} + Floats{cut_x, cut_y, -cut_x, -cut_y});
  }

  const std::vector<KeptBlock>& everywhere() const { return everywhere_; }

  // The blocks of a cell as they were filled, up to null: the best boxes suppress most.
  const KeptBlock* Oldest(int32_t column, int32_t row) const {
    return BlockAt(cells_[row * columns_ + column].oldest);
  }
  const KeptBlock* Newer(const KeptBlock* block) const {
    return BlockAt(newer_[block - blocks_.data()]);
  }

 private:
  typedef float Floats __attribute__((vector_size(16)));  // x1, y1, x2, y2

  static constexpr int64_t kMaxCellsPerBox = 32;
  static const KeptBlock kEmpty;

  struct Cell {
    int32_t oldest = -1, newest = -1;  // blocks, -1 for none; the newest is written to
    uint32_t num_boxes = 0;
  };

  const KeptBlock* BlockAt(int32_t index) const { return index < 0 ? nullptr : &blocks_[index]; }

  Corners CellsOf(Floats corners) const {
    Floats cells = (corners - origin_) * cells_per_unit_;
    cells = cells > 0.0f ? cells : Floats{};  // nor NaN
    cells = cells < last_ ? cells : last_;
    return __builtin_convertvector(cells, Corners);
  }

  float cut_;
  Floats origin_, cells_per_unit_, last_;  // of the grid, x and y twice
  int32_t columns_;
  std::vector<Cell> cells_;        // row by row
  std::vector<KeptBlock> blocks_;  // of the cells
  std::vector<int32_t> newer_;     // of every block the one that its cell filled next, or -1
  std::vector<KeptBlock> everywhere_;
  uint64_t num_everywhere_;
};

}  // namespace kvision
