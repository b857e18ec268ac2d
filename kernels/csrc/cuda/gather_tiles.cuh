// Gathers images with their channels last, at stride 1, through shared memory.
#pragma once

#include "pixel_tiles.cuh"

namespace asl::cuda {

// The taps of a row of the op, as one thread works them out for all.
struct __align__(16) TileTaps {
  float near_y, far_y, near_x, far_x;
  int y, x, channel, padding;  // channel -1 where the row is not usable
};

__device__ __forceinline__ TileTaps read_tile_taps(const Gather& gather, int plane) {
  int base[2];
  float fraction[2];
  const int channel = read_plane_row(gather.problem, plane, base, fraction);
  Taps<float> both;
  both.set(0, base[0], fraction[0], gather.adjoint);
  both.set(1, base[1], fraction[1], gather.adjoint);
  return {both.near[0], both.far[0], both.near[1], both.far[1], both.base[0], both.base[1],
          gather.adjoint && channel >= 0 ? plane : channel, 0};
}

// The taps of a lane's channels.
template <typename T>
struct LaneTaps {
  static constexpr int kEach = 4 / sizeof(T);
  TileTaps row[kEach];
  bool exists;  // else the lane has no channel

  __device__ __forceinline__ LaneTaps(const TileTaps* table, int plane, int planes, int lane) {
    exists = plane < planes;
#pragma unroll
    for (int r = 0; r < kEach; ++r) {
      row[r] = exists ? table[lane * kEach + r] : TileTaps{1.0f, 0.0f, 1.0f, 0.0f, 0, 0, -1, 0};
    }
  }
  __device__ __forceinline__ PixelBox box(const TilePlace& place, int channels, int lines) const {
    constexpr int kNone = 2000000000;
    int low[3] = {kNone, kNone, kNone}, high[3] = {-kNone, -kNone, -kNone};
#pragma unroll
    for (int r = 0; r < kEach; ++r) {
      if (row[r].channel < 0) continue;
      low[0] = min(low[0], row[r].y);
      low[1] = min(low[1], row[r].x);
      low[2] = min(low[2], row[r].channel);
      high[0] = max(high[0], row[r].y + (row[r].far_y != 0.0f));
      high[1] = max(high[1], row[r].x + (row[r].far_x != 0.0f));
      high[2] = max(high[2], row[r].channel);
    }
    return PixelBox(place, low, high, channels, kLineBytes / sizeof(T), lines);
  }
};

// A run of a lane's channels from the stage. Without SELECT every row is usable and lies between two columns.
template <typename T, bool SELECT>
__device__ __forceinline__ void sample_run(const LaneTaps<T>& taps, const char* const (&upper)[LaneTaps<T>::kEach],
                                           const int (&down)[LaneTaps<T>::kEach], float unusable, int count, T* to,
                                           int step) {
  constexpr int kEach = LaneTaps<T>::kEach;
  const int mine = taps.exists ? count : 0;
  const char* lower[kEach];
  float near_y[kEach], far_y[kEach], before[kEach];
#pragma unroll
  for (int r = 0; r < kEach; ++r) {
    lower[r] = upper[r] + down[r];
    // Half of a pixel and half of the same pixel are that pixel, which needs no case for whole offsets.
    near_y[r] = taps.row[r].far_y == 0.0f ? 0.5f : taps.row[r].near_y;
    far_y[r] = taps.row[r].far_y == 0.0f ? 0.5f : taps.row[r].far_y;
  }
#pragma unroll
  for (int i = 0; i <= kTileRun; ++i) {
    float value[kEach];
#pragma unroll
    for (int r = 0; r < kEach; ++r) {
      const float above = widened(*reinterpret_cast<const T*>(upper[r] + i * kLineBytes));
      const float below = widened(*reinterpret_cast<const T*>(lower[r] + i * kLineBytes));
      const float column = fmaf(far_y[r], below, near_y[r] * above);
      if (i > 0) {
        const float near = taps.row[r].near_x * before[r];
        value[r] = fmaf(taps.row[r].far_x, column, near);
        if (SELECT && taps.row[r].far_x == 0.0f) value[r] = near;
        if (SELECT && taps.row[r].channel < 0) value[r] = unusable;
      }
      before[r] = column;
    }
    if (i > 0) {
      if (i <= mine) store_pack<T, kEach>(to, value);
      to += step;
    }
    if (i == kTileRun / 2 && count <= kTileRun / 2) break;
  }
}

// Shifts that reach too far for the room, or rows whose channels lie too far apart: every tap from global memory. The
// table, of the lane's channels, is then still there.
template <typename T>
__device__ __forceinline__ void sample_far(const TileTaps* table, const Gather& gather, const T* image, int y, int x,
                                           float unusable, int count, T* to) {
  constexpr int kEach = LaneTaps<T>::kEach;
#pragma unroll 1
  for (int i = 0; i < count; ++i, to += gather.out_planes) {
    float value[kEach];
#pragma unroll
    for (int r = 0; r < kEach; ++r) {
      const TileTaps row = table[r];
      value[r] = row.channel < 0 ? unusable : 0.0f;
      if (row.channel < 0) continue;
#pragma unroll
      for (int tap = 0; tap < 4; ++tap) {
        const int at_y = y + row.y + tap / 2, at_x = x + i + row.x + tap % 2;
        const float weight = (tap / 2 == 0 ? row.near_y : row.far_y) * (tap % 2 == 0 ? row.near_x : row.far_x);
        if (weight == 0.0f || !within(at_y, gather.in_size[1]) || !within(at_x, gather.in_size[2])) continue;
        const int64_t pixel = static_cast<int64_t>(at_y) * gather.in_size[2] + at_x;
        value[r] = fmaf(weight, widened(__ldg(image + pixel * gather.in_planes + row.channel)), value[r]);
      }
    }
    store_pack<T, kEach>(to, value);
  }
}

template <typename T>
__global__ void __launch_bounds__(kTileThreads, kTileBlocks) gather_tiles_kernel(const Gather gather,
                                                                                 const PixelTiles tiles) {
  constexpr int kEach = LaneTaps<T>::kEach, kChannels = kLineBytes / sizeof(T);
  ASL_DYNAMIC_SHARED(char, stage);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, planes = gather.out_planes;
  const TilePlace place(tiles, static_cast<int>(blockIdx.x));
  const int first = place.slab * kChannels;
  // The table lies where the stage will be.
  TileTaps* const table = reinterpret_cast<TileTaps*>(stage);
  if (threadIdx.x < kChannels && first + static_cast<int>(threadIdx.x) < planes) {
    table[threadIdx.x] = read_tile_taps(gather, first + threadIdx.x);
  }
  __syncthreads();
  const int plane = first + lane * kEach;
  const LaneTaps<T> taps(table, plane, planes, lane);
  const PixelBox box = taps.box(place, gather.in_planes, tiles.lines);
  __syncthreads();
  if (box.fits) stage_pixels<T>(gather.in, gather.in_size, gather.in_planes, place, box, stage);

  // A lane's first tap from the tile's corner, and the step to the row below it where that one counts.
  int offset[kEach], down[kEach];
  bool special = false;
#pragma unroll
  for (int r = 0; r < kEach; ++r) {
    const TileTaps& row = taps.row[r];
    const bool usable = row.channel >= 0;
    special = special || (taps.exists && (!usable || row.far_x == 0.0f));
    offset[r] = usable && box.fits ? ((row.y - box.y) * box.width + row.x - box.x) * kLineBytes +
                                         (row.channel - box.channel) * static_cast<int>(sizeof(T))
                                   : 0;
    down[r] = usable && box.fits && row.far_y != 0.0f ? box.width * kLineBytes : 0;
  }
  const bool select = __any_sync(0xffffffffu, special);
  const float unusable = gather.adjoint ? 0.0f : not_a_number<float>();
  if (box.fits) {
    cp_async_wait<0>();
    __syncthreads();
  }
#pragma unroll 1
  for (int number = warp; number < tiles.runs; number += kTileWarps) {
    const TileRun run(tiles, place, number);
    if (run.count <= 0) continue;
    const int64_t row = static_cast<int64_t>(place.image + run.image) * tiles.height + place.y + run.y;
    T* to = static_cast<T*>(gather.out) + (row * tiles.width + place.x + run.x) * planes + plane;
    if (box.fits) {
      const char* corner = stage + ((run.image * box.height + run.y) * box.width + run.x) * kLineBytes;
      const char* upper[kEach];
#pragma unroll
      for (int r = 0; r < kEach; ++r) upper[r] = corner + offset[r];
      if (select) {
        sample_run<T, true>(taps, upper, down, unusable, run.count, to, planes);
      } else {
        sample_run<T, false>(taps, upper, down, unusable, run.count, to, planes);
      }
    } else {
      const int64_t pixels = static_cast<int64_t>(gather.in_size[1]) * gather.in_size[2];
      const T* image = static_cast<const T*>(gather.in) + (place.image + run.image) * pixels * gather.in_planes;
      sample_far<T>(table + lane * kEach, gather, image, place.y + run.y, place.x + run.x, unusable,
                    taps.exists ? run.count : 0, to);
    }
  }
}

template <typename T>
const char* gather_tiles(const Gather& gather, const PixelTiles& tiles, void* stream) {
  return launch(gather_tiles_kernel<T>, dim3(static_cast<unsigned>(tiles.blocks)), dim3(kTileThreads),
                static_cast<size_t>(tiles.lines) * kLineBytes, stream, gather, tiles);
}

}  // namespace asl::cuda
