// ConnectedComponentsCpu against floods from one pixel after the other, and the same bits on every
// number of threads.

#include <utility>
#include <vector>

#include "common/threads.h"
#include "fuzz/flood.h"
#include "fuzz/input.h"
#include "ops/connected_components/connected_components.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace kvision;
  fuzz::Input input(data, size);
  ConnectedComponentsParameters parameters{};
  parameters.batch = input.Size(2, 4);
  parameters.height = input.Size(20, 140);
  parameters.width = input.Size(140, 400);
  parameters.connectivity = input.OneOf({4, 8});
  fuzz::Require(CheckConnectedComponents(parameters).empty(), "the checks let these through");
  const int64_t pixels = parameters.height * parameters.width;
  fuzz::Buffer<bool> mask(input, parameters.batch * pixels);
  fuzz::DrawPatches(input, parameters.width, 2, mask);

  fuzz::Buffer<int32_t> labels(input, mask.size()), threaded(input, mask.size());
  ConnectedComponentsCpu(parameters, mask.data(), labels.data(), ThreadsFor(1));
  ConnectedComponentsCpu(parameters, mask.data(), threaded.data(),
                         ThreadsFor(input.OneOf({2, 3, 7})));
  fuzz::Require(labels.SameBits(threaded), "the same bits on all threads");
  for (int64_t image = 0; image < parameters.batch; ++image) {
    const bool* const its_mask = mask.data() + image * pixels;
    const std::vector<int32_t> flooded =
        fuzz::Flood(parameters.height, parameters.width, parameters.connectivity,
                    [its_mask](int64_t i) { return its_mask[i]; });
    for (int64_t i = 0; i < pixels; ++i) {
      fuzz::Require(labels[image * pixels + i] == flooded[i], "the components");
    }
  }
  return 0;
}
