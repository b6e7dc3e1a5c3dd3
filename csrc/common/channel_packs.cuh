// Kernels whose threads own a few channels next to one another, which are loaded and stored at once
// where the channels and the pointers allow.
#pragma once

#include <cstdint>

#include "common/launch.cuh"

namespace kvision {

constexpr int kPackThreads = 128;
// Leaves each thread up to 128 registers, so that none spills.
constexpr int kPackBlocksOnSm = 4;

template <typename T, int kPack>
struct alignas(sizeof(T) * kPack) Pack {
  T values[kPack];
};

// 16 bytes of a float or double, 8 of a half type.
template <typename T>
constexpr int kFullPack = sizeof(T) == 8 ? 2 : 4;

template <int kPack, typename T>
__device__ inline Pack<T, kPack> LoadPack(const T* from) {
  return *reinterpret_cast<const Pack<T, kPack>*>(from);
}

template <int kPack, typename T>
__device__ inline void StorePack(const Pack<T, kPack>& pack, T* to) {
  *reinterpret_cast<Pack<T, kPack>*>(to) = pack;
}

// How many lanes of a warp own a bin together, a pack each: a power of two, and no more than have
// something to do.
inline unsigned LanesFor(int64_t packs) {
  unsigned lanes = 1;
  while (lanes < kWarp && lanes < packs) lanes *= 2;
  return lanes;
}

// Whether tensors of so many channels, the last axis, can be read by packs of kPack.
template <int kPack, typename... Elements>
bool Packs(int64_t channels, const Elements*... tensors) {
  const auto aligned = [](const auto* tensor) {
    return reinterpret_cast<uintptr_t>(tensor) % (sizeof(*tensor) * kPack) == 0;
  };
  return channels % kPack == 0 && (aligned(tensors) && ...);
}

}  // namespace kvision
