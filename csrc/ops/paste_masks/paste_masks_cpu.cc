// The label map strip after strip of rows, the last box of an image first; run lengths box after
// box.
#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "common/isa.h"
#include "ops/paste_masks/paste_masks.h"

#define KVISION_ISA_FILE "ops/paste_masks/paste_masks_rows.inc"
#include "common/foreach_isa.h"

namespace kvision {
namespace {

struct Loops {
  decltype(&baseline::FillTaps) fill_taps;
  decltype(&baseline::InterpolateRow) interpolate_row;
  decltype(&baseline::InterpolateRows) interpolate_rows;
  decltype(&baseline::PasteRow) paste_row;
};

Loops LoopsForThisProcessor() {
  switch (CurrentIsa()) {
#ifdef __x86_64__
    case Isa::kAvx512:
      return {&avx512::FillTaps, &avx512::InterpolateRow, &avx512::InterpolateRows,
              &avx512::PasteRow};
    case Isa::kAvx2:
      return {&avx2::FillTaps, &avx2::InterpolateRow, &avx2::InterpolateRows, &avx2::PasteRow};
#endif
    default:
      return {&baseline::FillTaps, &baseline::InterpolateRow, &baseline::InterpolateRows,
              &baseline::PasteRow};
  }
}

// The cells that the pixels of an axis read, and the weights of the next ones.
class Taps {
 public:
  void Fill(const Loops& loops, const PasteAxis& axis) {
    first_ = axis.first, last_ = axis.last;
    cells_.resize(size());
    weights_.resize(size());
    loops.fill_taps(axis, cells_.data(), weights_.data());
  }

  int64_t first() const { return first_; }
  int64_t last() const { return last_; }
  int64_t size() const { return last_ - first_; }
  const int32_t* cells() const { return cells_.data(); }
  const float* weights() const { return weights_.data(); }
  int32_t Cell(int64_t pixel) const { return cells_[pixel - first_]; }
  float Weight(int64_t pixel) const { return weights_[pixel - first_]; }

 private:
  int64_t first_ = 0, last_ = 0;
  std::vector<int32_t> cells_;
  std::vector<float> weights_;
};

// Cuts an axis down to the pixels [begin, end).
PasteAxis Between(PasteAxis axis, int64_t begin, int64_t end) {
  axis.first = std::max(axis.first, begin);
  axis.last = std::min(axis.last, end);
  return axis;
}

// Rows [begin, end) of one image.
class Strip {
 public:
  Strip(const PasteMasksParameters& parameters, const Loops& loops)
      : parameters_(parameters), loops_(loops), padded_row_(parameters.mask_width + 2, 0.0f) {}

  // `pixels` is the first row of the image.
  void Paste(const float* mask, const float* box, int32_t id, int64_t begin, int64_t end,
             int32_t* pixels) {
    const PasteGrid grid = PasteGridOf(box, parameters_);
    const PasteAxis rows_here = Between(grid.rows, begin, end);
    if (rows_here.first >= rows_here.last) return;
    rows_.Fill(loops_, rows_here);
    columns_.Fill(loops_, grid.columns);
    const int32_t first_cell = rows_.Cell(rows_.first());
    const int32_t last_cell = rows_.Cell(rows_.last() - 1) + 1;
    wide_.resize((last_cell - first_cell + 1) * columns_.size());
    for (int32_t cell = first_cell; cell <= last_cell; ++cell) Widen(mask, cell, first_cell);
    for (int64_t y = rows_.first(); y < rows_.last(); ++y) {
      const float* const low = wide_.data() + (rows_.Cell(y) - first_cell) * columns_.size();
      loops_.paste_row(low, low + columns_.size(), rows_.Weight(y), parameters_.threshold, id,
                       columns_.size(), pixels + y * parameters_.width + columns_.first());
    }
  }

 private:
  // A row of the mask at the columns of pixels.
  void Widen(const float* mask, int32_t cell, int32_t first_cell) {
    float* const wide = wide_.data() + (cell - first_cell) * columns_.size();
    if (cell == 0 || cell > parameters_.mask_height) {
      std::fill_n(wide, columns_.size(), 0.0f);
      return;
    }
    std::copy_n(mask + (cell - 1) * parameters_.mask_width, parameters_.mask_width,
                padded_row_.data() + 1);
    loops_.interpolate_row(padded_row_.data(), columns_.cells(), columns_.weights(),
                           columns_.size(), wide);
  }

  const PasteMasksParameters& parameters_;
  const Loops loops_;
  Taps rows_, columns_;
  std::vector<float> padded_row_, wide_;
};

// Run lengths as they grow; where they are too many, no more than their number.
class Runs {
 public:
  Runs(int64_t pixels, int32_t* runs, int64_t capacity)
      : pixels_(pixels), runs_(runs), capacity_(capacity) {}

  // The pixels from here on are of the mask, or are not.
  void From(int64_t pixel, bool is_mask) {
    if (is_mask == is_mask_ || pixel == pixels_) return;
    is_mask_ = is_mask;
    EndRun(pixel);
  }

  void Finish() {
    EndRun(pixels_);
    const int64_t kept = number_ > capacity_ ? 0 : number_;
    std::fill(runs_ + kept, runs_ + capacity_, number_ > capacity_ ? -1 : 0);
  }

 private:
  void EndRun(int64_t pixel) {
    if (number_ < capacity_) runs_[number_] = static_cast<int32_t>(pixel - last_end_);
    ++number_;
    last_end_ = pixel;
  }

  const int64_t pixels_;
  int32_t* const runs_;
  const int64_t capacity_;
  int64_t number_ = 0, last_end_ = 0;
  bool is_mask_ = false;
};

// One box after the other, each column after column.
class RunPaster {
 public:
  RunPaster(const PasteMasksParameters& parameters, const Loops& loops)
      : parameters_(parameters),
        loops_(loops),
        below_(parameters.threshold * (1.0f - kMargin)),
        above_(parameters.threshold * (1.0f + kMargin)),
        stride_(parameters.mask_height + 2),
        columns_of_mask_((parameters.mask_width + 2) * stride_, 0.0f),
        column_(stride_) {}

  void Paste(const float* mask, const float* box, int32_t* output) {
    Runs runs(parameters_.height * parameters_.width, output, parameters_.num_runs);
    const PasteGrid grid = PasteGridOf(box, parameters_);
    rows_.Fill(loops_, grid.rows);
    columns_.Fill(loops_, grid.columns);
    if (rows_.size() > 0) {
      FillColumns(mask);
      FindRowsOfCells();
      for (int64_t x = columns_.first(); x < columns_.last(); ++x) AddColumn(x, &runs);
      runs.From((columns_.last() - 1) * parameters_.height + rows_.last(), false);
    }
    runs.Finish();
  }

 private:
  // Farther from the threshold than rounding in between two cells goes.
  static constexpr float kMargin = 0x1p-20f;

  // The columns of the mask one after the other, with zeros all around.
  void FillColumns(const float* mask) {
    for (int64_t y = 0; y < parameters_.mask_height; ++y) {
      for (int64_t x = 0; x < parameters_.mask_width; ++x) {
        columns_of_mask_[(x + 1) * stride_ + y + 1] = mask[y * parameters_.mask_width + x];
      }
    }
  }

  // Where the pixels that read each cell begin.
  void FindRowsOfCells() {
    begins_.assign(stride_, rows_.last());
    for (int64_t y = rows_.last(); y-- > rows_.first();) begins_[rows_.Cell(y)] = y;
    for (int64_t cell = stride_ - 1; cell-- > 0;) {
      begins_[cell] = std::min(begins_[cell], begins_[cell + 1]);
    }
  }

  void AddColumn(int64_t x, Runs* runs) {
    const float* const low = columns_of_mask_.data() + columns_.Cell(x) * stride_;
    loops_.interpolate_rows(low, low + stride_, columns_.Weight(x), stride_, column_.data());
    const int64_t top = x * parameters_.height;
    for (int64_t cell = 0; cell + 1 < stride_; ++cell) {
      const int64_t begin = begins_[cell], end = begins_[cell + 1];
      if (begin == end) continue;
      const float here = column_[cell], next = column_[cell + 1];
      if (here < below_ && next < below_) {
        runs->From(top + begin, false);
      } else if (here > above_ && next > above_ && next <= std::numeric_limits<float>::max()) {
        runs->From(top + begin, true);
      } else {
        for (int64_t y = begin; y < end; ++y) {
          const float weight = rows_.Weight(y);
          const float value = here * (1.0f - weight) + next * weight;
          runs->From(top + y, value >= parameters_.threshold);
        }
      }
    }
    // A run goes on in the next column where no pixel lies in between.
    const bool is_whole = rows_.first() == 0 && rows_.last() == parameters_.height;
    if (!is_whole) runs->From(top + rows_.last(), false);
  }

  const PasteMasksParameters& parameters_;
  const Loops loops_;
  const float below_, above_;
  const int64_t stride_;
  Taps rows_, columns_;
  std::vector<float> columns_of_mask_, column_;
  std::vector<int64_t> begins_;
};

}  // namespace

void PasteMasksCpu(const PasteMasksParameters& parameters, const float* masks, const float* boxes,
                   int32_t* label_map, ParallelFor parallel_for) {
  constexpr int64_t kRows = 64;
  const Loops loops = LoopsForThisProcessor();
  const int64_t height = parameters.height, width = parameters.width;
  const int64_t number = parameters.num_boxes;
  const int64_t strips = (height + kRows - 1) / kRows;
  const int64_t cells = parameters.mask_height * parameters.mask_width;
  parallel_for(parameters.batch * strips, kRows * width + 1, [&](int64_t begin, int64_t end) {
    Strip strip(parameters, loops);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t image = unit / strips, top = unit % strips * kRows;
      const int64_t bottom = std::min(top + kRows, height);
      int32_t* const pixels = label_map + image * height * width;
      std::fill(pixels + top * width, pixels + bottom * width, 0);
      for (int64_t row = number; row-- > 0;) {
        const int64_t box = image * number + row;
        strip.Paste(masks + box * cells, boxes + 4 * box, static_cast<int32_t>(row + 1), top,
                    bottom, pixels);
      }
    }
  });
}

void PasteMaskRunsCpu(const PasteMasksParameters& parameters, const float* masks,
                      const float* boxes, int32_t* runs, ParallelFor parallel_for) {
  constexpr int64_t kTypicalColumns = 100, kCyclesPerCell = 4;
  const Loops loops = LoopsForThisProcessor();
  const int64_t cells = parameters.mask_height * parameters.mask_width;
  const int64_t cost = kTypicalColumns * kCyclesPerCell * (parameters.mask_height + 2);
  const int64_t total = parameters.batch * parameters.num_boxes;
  parallel_for(total, cost, [&](int64_t begin, int64_t end) {
    RunPaster paster(parameters, loops);
    for (int64_t box = begin; box < end; ++box) {
      paster.Paste(masks + box * cells, boxes + 4 * box, runs + box * parameters.num_runs);
    }
  });
}

}  // namespace kvision
