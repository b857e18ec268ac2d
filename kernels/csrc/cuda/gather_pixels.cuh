// Gathers images with their channels last in memory ([N, *spatial, C]).
#pragma once

#include "gather.h"
#include "launch.cuh"

namespace asl::cuda {

// Output pixels along x that a thread works on: their columns are shared, so each is read (S + 1) / S times.
constexpr int kRun = 8;
constexpr int kPixelThreads = 256;

// Threads of a block: x along groups of V channels, a whole warp where there are as many; y along rows of pixels.
inline dim3 pixel_block(int channels, int v) {
  unsigned x = 1;
  while (x < 32 && x * v < static_cast<unsigned>(channels)) x *= 2;
  return dim3(x, kPixelThreads / x);
}

// row / by for rows past 32 bits as well; the short division is several times faster.
__device__ __forceinline__ int64_t divided(int64_t row, int by) {
  return row <= INT32_MAX ? static_cast<unsigned>(row) / static_cast<unsigned>(by) : row / by;
}

// The place of a thread: the row of pixels (n, z, y), valid where n < batch, and its first channel.
struct PixelRow {
  int64_t n;
  int z, y, channel;

  __device__ __forceinline__ PixelRow(const int (&size)[3], int channels, int v) {
    const int slices = (channels + blockDim.x * v - 1) / (blockDim.x * v);
    const int64_t row = static_cast<int64_t>(blockIdx.x / slices) * blockDim.y + threadIdx.y;
    const int64_t plane = divided(row, size[1]);
    y = static_cast<int>(row - plane * size[1]);
    n = divided(plane, size[0]);
    z = static_cast<int>(plane - n * size[0]);
    channel = (blockIdx.x % slices * blockDim.x + threadIdx.x) * v;
  }
};

// acc[i][lane] += the sample of the input's channel at output pixel (z, y, x0 + i).
template <typename T, int V>
__device__ __forceinline__ void sample_pixels(compute_t<T> (&acc)[kRun][V], int lane, const T* image, int channel,
                                              const Taps<compute_t<T>>& taps, const Gather& gather, int z, int y,
                                              int x0) {
  using A = compute_t<T>;
  const int width = gather.in_size[2], channels = gather.in_planes, step = gather.step[2];
  const int column = x0 * step + taps.base[2];
  for (int tz = 0; tz < 2; ++tz) {
    const int at_z = z * gather.step[0] + taps.base[0] + tz;
    const A weight_z = tz == 0 ? taps.near[0] : taps.far[0];
    if (weight_z == A(0) || !within(at_z, gather.in_size[0])) continue;
#pragma unroll
    for (int ty = 0; ty < 2; ++ty) {
      const int at_y = y * gather.step[1] + taps.base[1] + ty;
      const A weight = weight_z * (ty == 0 ? taps.near[1] : taps.far[1]);
      if (weight == A(0) || !within(at_y, gather.in_size[1])) continue;
      const A near = weight * taps.near[2], far = weight * taps.far[2];
      const T* row = image + (static_cast<int64_t>(at_z) * gather.in_size[1] + at_y) * width * channels + channel;
      if (step == 1) {
        // All loads before the first use: what is under way hides the memory's latency.
        A values[kRun + 1];
#pragma unroll
        for (int i = 0; i <= kRun; ++i) {
          const bool wanted = within(column + i, width) && (i < kRun || far != A(0));
          values[i] = wanted ? widened(__ldg(row + static_cast<int64_t>(column + i) * channels)) : A(0);
        }
#pragma unroll
        for (int i = 0; i < kRun; ++i) acc[i][lane] += near * values[i];
        if (far != A(0)) {
#pragma unroll
          for (int i = 0; i < kRun; ++i) acc[i][lane] += far * values[i + 1];
        }
      } else {
#pragma unroll
        for (int i = 0; i < kRun; ++i) {
          const int at = column + i * step;
          if (within(at, width)) {
            acc[i][lane] += near * widened(__ldg(row + static_cast<int64_t>(at) * channels));
          }
          if (far != A(0) && within(at + 1, width)) {
            acc[i][lane] += far * widened(__ldg(row + static_cast<int64_t>(at + 1) * channels));
          }
        }
      }
    }
  }
}

template <typename T, int V>
__global__ void __launch_bounds__(kPixelThreads, 2) gather_pixels_kernel(const Gather gather, int64_t batch) {
  using A = compute_t<T>;
  const PixelRow at(gather.out_size, gather.out_planes, V);
  if (at.n >= batch || at.channel >= gather.out_planes) return;
  const int64_t in_image = static_cast<int64_t>(gather.in_size[0]) * gather.in_size[1] * gather.in_size[2];
  const T* image = static_cast<const T*>(gather.in) + at.n * in_image * gather.in_planes;
  const int width = gather.out_size[2];
  T* out = static_cast<T*>(gather.out) + at.channel +
           ((at.n * gather.out_size[0] + at.z) * gather.out_size[1] + at.y) * width * gather.out_planes;
  for (int64_t x0 = static_cast<int64_t>(blockIdx.y) * kRun; x0 < width; x0 += static_cast<int64_t>(gridDim.y) * kRun) {
    A acc[kRun][V] = {};
#pragma unroll
    for (int lane = 0; lane < V; ++lane) {
      int first, last;
      gather.entries(at.channel + lane, first, last);
      for (int entry = first; entry < last; ++entry) {
        Taps<A> taps;
        const int channel = gather.entry(entry, taps);
        if (channel >= 0) {
          sample_pixels<T, V>(acc, lane, image, channel, taps, gather, at.z, at.y, static_cast<int>(x0));
        } else if (!gather.adjoint) {
#pragma unroll
          for (int i = 0; i < kRun; ++i) acc[i][lane] = not_a_number<A>();
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
      if (x0 + i < width) store_pack<T, V>(out + (x0 + i) * gather.out_planes, acc[i]);
    }
  }
}

template <typename T, int V>
const char* gather_pixels_of(const Gather& gather, int64_t batch, void* stream) {
  const dim3 block = pixel_block(gather.out_planes, V);
  const int64_t rows = batch * gather.out_size[0] * gather.out_size[1];
  const int64_t slices = (gather.out_planes + block.x * V - 1) / (block.x * V);
  const int64_t blocks_x = (rows + block.y - 1) / block.y * slices;
  const int64_t blocks_y = (gather.out_size[2] + kRun - 1) / kRun;
  if (blocks_x > INT32_MAX) return "active shift: the image is too large for the CUDA kernels";
  const dim3 grid(static_cast<unsigned>(blocks_x),
                  static_cast<unsigned>(blocks_y < kMostBlocksY ? blocks_y : kMostBlocksY));
  return launch(gather_pixels_kernel<T, V>, grid, block, 0, stream, gather, batch);
}

// Two halves are stored as one word.
template <typename T>
const char* gather_pixels_typed(const Gather& gather, int64_t batch, void* stream) {
  if constexpr (sizeof(T) == 2) {
    if (gather.out_planes % 2 == 0 && reinterpret_cast<uintptr_t>(gather.out) % 4 == 0) {
      return gather_pixels_of<T, 2>(gather, batch, stream);
    }
  }
  return gather_pixels_of<T, 1>(gather, batch, stream);
}

}  // namespace asl::cuda
