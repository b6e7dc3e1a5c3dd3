// Box after box: the weights of its bins along both axes, then line after line.
#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "ops/crop_masks/crop_masks.h"

namespace kvision {
namespace {

// By which weight each pixel along an axis goes into each bin, for the pixels of which any does.
class BinWeights {
 public:
  void Fill(const RoiAlignAxis<float>& axis, int64_t bins) {
    bins_ = bins;
    taps_.clear();
    first_ = axis.size, last_ = 0;
    const float sample_weight = axis.SampleWeight();
    for (int64_t bin = 0; bin < bins; ++bin) {
      const float bin_start = axis.BinStart(bin);
      const RoiAlignSamples<float> samples = axis.SamplesOnMap(bin_start, true);
      for (int64_t i = 0; i < samples.number; ++i) {
        const float position = axis.Position(bin_start, samples.first + static_cast<float>(i));
        if (!ReadsMap(position, axis.size)) continue;
        const BilinearTaps<float> taps = TapsAt(position, axis.size);
        taps_.push_back({taps.low, bin, taps.low_weight * sample_weight});
        taps_.push_back({taps.high, bin, taps.high_weight * sample_weight});
        first_ = std::min(first_, taps.low);
        last_ = std::max(last_, taps.high + 1);
      }
    }
    weights_.assign(std::max<int64_t>(size(), 0) * bins, 0.0f);
    for (const Tap& tap : taps_) weights_[(tap.pixel - first_) * bins + tap.bin] += tap.weight;
  }

  // Turns the weights of pixels into those of all pixels before: At(last()) is the last.
  void Accumulate() {
    std::vector<double>& sums = sums_;
    sums.assign(bins_, 0.0);
    weights_.resize((size() + 1) * bins_);
    for (int64_t pixel = 0; pixel <= size(); ++pixel) {
      float* const weights = weights_.data() + pixel * bins_;
      for (int64_t bin = 0; bin < bins_; ++bin) {
        const double weight = weights[bin];
        weights[bin] = static_cast<float>(sums[bin]);
        sums[bin] += weight;
      }
    }
  }

  int64_t bins() const { return bins_; }
  // The pixels, [first, last).
  int64_t first() const { return first_; }
  int64_t last() const { return last_; }
  int64_t size() const { return last_ - first_; }
  const float* At(int64_t pixel) const { return weights_.data() + (pixel - first_) * bins_; }

 private:
  struct Tap {
    int64_t pixel, bin;
    float weight;
  };

  int64_t bins_ = 0, first_ = 0, last_ = 0;
  std::vector<Tap> taps_;
  std::vector<float> weights_;
  std::vector<double> sums_;
};

// The bins of one box, summed from the runs of a mask along lines of pixels.
class LineSums {
 public:
  // Whether there is anything to read.
  bool Start(const RoiAlignAxis<float>& across, int64_t bins_across,
             const RoiAlignAxis<float>& along, int64_t bins_along) {
    across_.Fill(across, bins_across);
    along_.Fill(along, bins_along);
    if (across_.size() <= 0 || along_.size() <= 0) return false;
    along_.Accumulate();
    line_.assign(bins_along, 0.0f);
    sums_.assign(bins_across * bins_along, 0.0f);
    return true;
  }

  // The lines that any bin reads, and the pixels along them.
  const BinWeights& across() const { return across_; }
  const BinWeights& along() const { return along_; }

  // Pixels [begin, end) of the line at hand are of the mask.
  void AddRun(int64_t begin, int64_t end) {
    begin = std::max(begin, along_.first());
    end = std::min(end, along_.last());
    if (begin >= end) return;
    const float *before = along_.At(begin), *behind = along_.At(end);
    float* const line = line_.data();
    for (int64_t bin = 0; bin < along_.bins(); ++bin) line[bin] += behind[bin] - before[bin];
    has_runs_ = true;
  }

  void EndLine(int64_t number) {
    if (!has_runs_) return;
    const float* const weights = across_.At(number);
    for (int64_t bin = 0; bin < across_.bins(); ++bin) {
      const float weight = weights[bin];
      if (weight == 0.0f) continue;
      float* const sums = sums_.data() + bin * along_.bins();
      for (int64_t i = 0; i < along_.bins(); ++i) sums[i] += weight * line_[i];
    }
    std::fill(line_.begin(), line_.end(), 0.0f);
    has_runs_ = false;
  }

  float At(int64_t bin_across, int64_t bin_along) const {
    return sums_[bin_across * along_.bins() + bin_along];
  }

 private:
  BinWeights across_, along_;
  std::vector<float> line_, sums_;
  bool has_runs_ = false;
};

// The pixels of `id` in a row of a label map. Blocks that are of it as a whole, or not at all, are
// told by their number.
void AddRuns(const int32_t* row, int32_t id, int64_t begin, int64_t end, LineSums* sums) {
  constexpr int64_t kBlock = 16;
  constexpr int64_t kNone = -1;
  int64_t start = kNone;
  const auto look = [&](int64_t x) {
    if ((row[x] == id) == (start != kNone)) return;
    if (start != kNone) sums->AddRun(start, x);
    start = start == kNone ? x : kNone;
  };
  int64_t x = begin;
  for (; x + kBlock <= end; x += kBlock) {
    int32_t number = 0;
    for (int64_t i = 0; i < kBlock; ++i) number += row[x + i] == id ? 1 : 0;
    if (number == (start == kNone ? 0 : kBlock)) continue;
    for (int64_t i = 0; i < kBlock; ++i) look(x + i);
  }
  for (; x < end; ++x) look(x);
  if (start != kNone) sums->AddRun(start, end);
}

void AddColumns(const CropMasksParameters& parameters, const int32_t* runs, LineSums* sums) {
  const int64_t height = parameters.height;
  const int64_t pixels = height * parameters.width;
  const int64_t first = sums->across().first() * height, last = sums->across().last() * height;
  int64_t column = sums->across().first();
  const auto end_columns_before = [&](int64_t next) {
    if (next > column) sums->EndLine(column);
    column = std::max(column, next);
  };
  int64_t end = 0;
  for (int64_t i = 0; i < parameters.num_runs && end < last; ++i) {
    const int64_t begin = end;
    end = std::min(begin + runs[i], pixels);
    if (i % 2 == 0) continue;
    int64_t at = std::max(begin, first);
    const int64_t stop = std::min(end, last);
    while (at < stop) {
      const int64_t x = at / height, top = x * height;
      const int64_t bottom = std::min(stop, top + height);
      end_columns_before(x);
      sums->AddRun(at - top, bottom - top);
      at = bottom;
    }
  }
  sums->EndLine(column);
}

bool AnyNegative(const int32_t* runs, int64_t number) {
  int32_t all = 0;
  for (int64_t i = 0; i < number; ++i) all |= runs[i];
  return all < 0;
}

int64_t CostOfBox(const CropMasksParameters& parameters) {
  constexpr int64_t kTypicalPixels = 200;
  return kTypicalPixels * (parameters.output_height + parameters.output_width) + 1;
}

}  // namespace

void CropMasksCpu(const CropMasksParameters& parameters, const int32_t* label_map,
                  const float* boxes, const int32_t* rows, float* output,
                  ParallelFor parallel_for) {
  const int64_t height = parameters.height, width = parameters.width;
  const int64_t bins = parameters.output_height * parameters.output_width;
  const auto crop_boxes = [&](int64_t begin, int64_t end) {
    LineSums sums;
    for (int64_t box = begin; box < end; ++box) {
      float* const bins_of_box = output + box * bins;
      const CropMasksGrid grid = CropMasksGridOf(boxes + 4 * box, parameters);
      const bool has_mask =
          grid.valid && rows[box] >= 0 && rows[box] < std::numeric_limits<int32_t>::max();
      if (!has_mask ||
          !sums.Start(grid.rows, parameters.output_height, grid.columns, parameters.output_width)) {
        std::fill_n(bins_of_box, bins, 0.0f);
        continue;
      }
      const int32_t* const image = label_map + box / parameters.num_boxes * height * width;
      for (int64_t y = sums.across().first(); y < sums.across().last(); ++y) {
        AddRuns(image + y * width, rows[box] + 1, sums.along().first(), sums.along().last(), &sums);
        sums.EndLine(y);
      }
      for (int64_t i = 0; i < bins; ++i) {
        bins_of_box[i] = sums.At(i / parameters.output_width, i % parameters.output_width);
      }
    }
  };
  parallel_for(parameters.batch * parameters.num_boxes, CostOfBox(parameters), crop_boxes);
}

void CropMaskRunsCpu(const CropMasksParameters& parameters, const int32_t* runs, const float* boxes,
                     const int32_t* rows, float* output, ParallelFor parallel_for) {
  const int64_t bins = parameters.output_height * parameters.output_width;
  const auto crop_boxes = [&](int64_t begin, int64_t end) {
    LineSums sums;
    for (int64_t box = begin; box < end; ++box) {
      float* const bins_of_box = output + box * bins;
      std::fill_n(bins_of_box, bins, 0.0f);
      const CropMasksGrid grid = CropMasksGridOf(boxes + 4 * box, parameters);
      if (!grid.valid || rows[box] < 0 || rows[box] >= parameters.num_instances) continue;
      const int64_t instance = box / parameters.num_boxes * parameters.num_instances + rows[box];
      const int32_t* const runs_of_box = runs + instance * parameters.num_runs;
      if (AnyNegative(runs_of_box, parameters.num_runs) ||
          !sums.Start(grid.columns, parameters.output_width, grid.rows, parameters.output_height)) {
        continue;
      }
      AddColumns(parameters, runs_of_box, &sums);
      for (int64_t i = 0; i < bins; ++i) {
        bins_of_box[i] = sums.At(i % parameters.output_width, i / parameters.output_width);
      }
    }
  };
  parallel_for(parameters.batch * parameters.num_boxes, CostOfBox(parameters), crop_boxes);
}

}  // namespace kvision
