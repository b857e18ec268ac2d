// Gathers images with their channels last, at stride 1, through shared memory.
#pragma once

#include "pixel_tiles.cuh"

namespace asl::cuda {

// The taps of a lane's channels.
template <typename T>
struct LaneTaps {
  static constexpr int kEach = 4 / sizeof(T);
  int y[kEach], x[kEach], channel[kEach];  // -1 where the row is not usable
  float near_y[kEach], far_y[kEach], near_x[kEach], far_x[kEach];
  bool exists;  // else the lane has no channel

  __device__ __forceinline__ LaneTaps(const Gather& gather, int plane) {
    exists = plane < gather.out_planes;
#pragma unroll
    for (int r = 0; r < kEach; ++r) {
      Taps<float> taps{};
      channel[r] = exists ? gather.entry(plane + r, taps) : -1;
      y[r] = taps.base[1];
      x[r] = taps.base[2];
      near_y[r] = taps.near[1];
      far_y[r] = taps.far[1];
      near_x[r] = taps.near[2];
      far_x[r] = taps.far[2];
    }
  }
  __device__ __forceinline__ PixelBox box(const TilePlace& place, int channels, int lines) const {
    constexpr int kNone = 2000000000;
    int low[3] = {kNone, kNone, kNone}, high[3] = {-kNone, -kNone, -kNone};
#pragma unroll
    for (int r = 0; r < kEach; ++r) {
      if (channel[r] < 0) continue;
      low[0] = min(low[0], y[r]);
      low[1] = min(low[1], x[r]);
      low[2] = min(low[2], channel[r]);
      high[0] = max(high[0], y[r] + (far_y[r] != 0.0f));
      high[1] = max(high[1], x[r] + (far_x[r] != 0.0f));
      high[2] = max(high[2], channel[r]);
    }
    return PixelBox(place, low, high, channels, kLineBytes / sizeof(T), lines);
  }
};

template <typename T>
__global__ void __launch_bounds__(kTileThreads, kTileBlocks) gather_tiles_kernel(const Gather gather,
                                                                                 const PixelTiles tiles) {
  constexpr int kEach = LaneTaps<T>::kEach;
  ASL_DYNAMIC_SHARED(char, stage);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const TilePlace place(tiles, blockIdx.x);
  const int plane = place.slab * (kLineBytes / static_cast<int>(sizeof(T))) + lane * kEach;
  const LaneTaps<T> taps(gather, plane);
  const PixelBox box = taps.box(place, gather.in_planes, tiles.lines);
  if (box.fits) {
    stage_pixels<T>(gather.in, gather.in_size, gather.in_planes, place, box, stage);
    cp_async_wait<0>();
    __syncthreads();
  }
  // A lane's first tap from the tile's corner, and the step to the row below it where that one counts.
  int offset[kEach], down[kEach];
#pragma unroll
  for (int r = 0; r < kEach; ++r) {
    const bool usable = taps.channel[r] >= 0;
    offset[r] = usable ? ((taps.y[r] - box.y) * box.width + taps.x[r] - box.x) * kLineBytes +
                             (taps.channel[r] - box.channel) * static_cast<int>(sizeof(T))
                       : 0;
    down[r] = usable && taps.far_y[r] != 0.0f ? box.width * kLineBytes : 0;
  }
  const float unusable = gather.adjoint ? 0.0f : not_a_number<float>();
  const int planes = gather.out_planes;
  const TileRuns runs(place);
#pragma unroll 1
  for (int number = warp; number < runs.count; number += kTileWarps) {
    int image, y, x0;
    runs.at(place, number, image, y, x0);
    const int64_t row = static_cast<int64_t>(place.image + image) * tiles.height + place.y + y;
    T* to = static_cast<T*>(gather.out) + (row * tiles.width + place.x + x0) * planes + plane;
    const int count = taps.exists ? place.columns - x0 : 0;
    if (box.fits) {
      const char* corner = stage + ((image * box.height + y) * box.width + x0) * kLineBytes;
      float before[kEach];
#pragma unroll
      for (int i = 0; i <= kTileRun; ++i) {
        float value[kEach];
#pragma unroll
        for (int r = 0; r < kEach; ++r) {
          const char* at = corner + offset[r] + i * kLineBytes;
          const float upper = widened(*reinterpret_cast<const T*>(at));
          const float lower = widened(*reinterpret_cast<const T*>(at + down[r]));
          float column = taps.near_y[r] * upper;
          if (taps.far_y[r] != 0.0f) column = fmaf(taps.far_y[r], lower, column);
          if (i > 0) {
            value[r] = taps.near_x[r] * before[r];
            if (taps.far_x[r] != 0.0f) value[r] = fmaf(taps.far_x[r], column, value[r]);
            if (taps.channel[r] < 0) value[r] = unusable;
          }
          before[r] = column;
        }
        if (i > 0) {
          if (i <= count) store_pack<T, kEach>(to, value);
          to += planes;
        }
      }
    } else {
      // Shifts that reach too far for the room, or rows whose channels lie too far apart.
      const T* from = static_cast<const T*>(gather.in) + static_cast<int64_t>(place.image + image) *
                                                             gather.in_size[1] * gather.in_size[2] * gather.in_planes;
#pragma unroll 1
      for (int i = 0; i < min(count, kTileRun); ++i, to += planes) {
        float value[kEach];
#pragma unroll
        for (int r = 0; r < kEach; ++r) {
          value[r] = taps.channel[r] < 0 ? unusable : 0.0f;
          if (taps.channel[r] < 0) continue;
#pragma unroll
          for (int tap = 0; tap < 4; ++tap) {
            const int at_y = place.y + y + taps.y[r] + tap / 2, at_x = place.x + x0 + i + taps.x[r] + tap % 2;
            const float weight = (tap / 2 == 0 ? taps.near_y[r] : taps.far_y[r]) *
                                 (tap % 2 == 0 ? taps.near_x[r] : taps.far_x[r]);
            if (weight == 0.0f || !within(at_y, gather.in_size[1]) || !within(at_x, gather.in_size[2])) continue;
            const int64_t pixel = static_cast<int64_t>(at_y) * gather.in_size[2] + at_x;
            value[r] = fmaf(weight, widened(__ldg(from + pixel * gather.in_planes + taps.channel[r])), value[r]);
          }
        }
        store_pack<T, kEach>(to, value);
      }
    }
  }
}

template <typename T>
const char* gather_tiles(const Gather& gather, const PixelTiles& tiles, void* stream) {
  return launch(gather_tiles_kernel<T>, dim3(static_cast<unsigned>(tiles.blocks)), dim3(kTileThreads),
                static_cast<size_t>(tiles.lines) * kLineBytes, stream, gather, tiles);
}

}  // namespace asl::cuda
