// Gathers images that lie row-major ([N, C, *spatial]).
#pragma once

#include "gather.h"
#include "launch.cuh"
#include "window.cuh"

namespace asl::cuda {

// Output rows that a thread works on: neighbours share an input row, so each input row is read (R + 1) / R times.
constexpr int kRowsPerThread = 4;
constexpr int kThreads = 256;

// A block covers `x` groups of pixels (V columns by kRowsPerThread rows) of `y` planes.
inline dim3 plane_block(int64_t groups) {
  const unsigned x = static_cast<unsigned>(groups < kThreads ? groups : kThreads);
  return dim3(x, kThreads / x);
}

inline int64_t plane_groups(const int (&size)[3], int v) {
  return static_cast<int64_t>(size[0]) * ((size[1] + kRowsPerThread - 1) / kRowsPerThread) * (size[2] / v);
}

// acc[r][e] += the sample of the plane at output pixel (z, y0 + r, x0 + e).
template <typename T, int V>
__device__ __forceinline__ void sample_plane(compute_t<T> (&acc)[kRowsPerThread][V], const T* plane,
                                             const Taps<compute_t<T>>& taps, const Gather& gather, int z, int y0,
                                             int x0) {
  using A = compute_t<T>;
  const int height = gather.in_size[1], width = gather.in_size[2];
  const int step_y = gather.step[1], column = x0 * gather.step[2] + taps.base[2];
  for (int tz = 0; tz < 2; ++tz) {
    const A weight_z = tz == 0 ? taps.near[0] : taps.far[0];
    const int at_z = z * gather.step[0] + taps.base[0] + tz;
    if (weight_z == A(0) || !within(at_z, gather.in_size[0])) continue;
    const A near = weight_z * taps.near[2], far = weight_z * taps.far[2];
    const T* slice = plane + static_cast<int64_t>(at_z) * height * width;

    // value[e] = the row sampled along x; 0 where the row does not exist.
    const auto sample = [&](A(&value)[V], const Run<T, V, V + 1>& run) {
      A window[V + 1];
      run.open(window, column);
#pragma unroll
      for (int e = 0; e < V; ++e) value[e] = near * window[e];
      if (far != A(0)) {
#pragma unroll
        for (int e = 0; e < V; ++e) value[e] += far * window[e + 1];
      }
    };
    // Vectors are chosen for unit steps only.
    if (V > 1 || step_y == 1) {
      // All loads before the first use: what is under way hides the memory's latency.
      Run<T, V, V + 1> runs[kRowsPerThread + 1];
#pragma unroll
      for (int i = 0; i <= kRowsPerThread; ++i) {
        const int at_y = y0 + i + taps.base[1];
        const bool wanted = within(at_y, height) && (i < kRowsPerThread || taps.far[1] != A(0)) &&
                            y0 + i <= gather.out_size[1];
        runs[i].fetch(slice + static_cast<int64_t>(at_y) * width, column, width, wanted);
      }
#pragma unroll
      for (int i = 0; i <= kRowsPerThread; ++i) {
        A value[V];
        sample(value, runs[i]);
#pragma unroll
        for (int e = 0; e < V; ++e) {
          if (i < kRowsPerThread) acc[i < kRowsPerThread ? i : 0][e] += taps.near[1] * value[e];
        }
        if (i > 0 && taps.far[1] != A(0)) {
#pragma unroll
          for (int e = 0; e < V; ++e) acc[i > 0 ? i - 1 : 0][e] += taps.far[1] * value[e];
        }
      }
    } else {
#pragma unroll
      for (int r = 0; r < kRowsPerThread; ++r) {
        for (int ty = 0; ty < 2; ++ty) {
          const A weight_y = ty == 0 ? taps.near[1] : taps.far[1];
          const int at_y = (y0 + r) * step_y + taps.base[1] + ty;
          if (weight_y == A(0) || !within(at_y, height) || y0 + r >= gather.out_size[1]) continue;
          Run<T, V, V + 1> run;
          run.fetch(slice + static_cast<int64_t>(at_y) * width, column, width, true);
          A value[V];
          sample(value, run);
#pragma unroll
          for (int e = 0; e < V; ++e) acc[r][e] += weight_y * value[e];
        }
      }
    }
  }
}

template <typename T, int V>
__global__ void __launch_bounds__(kThreads, 2) gather_planes_kernel(const Gather gather) {
  using A = compute_t<T>;
  const int plane_blocks = (gather.out_planes + blockDim.y - 1) / blockDim.y;
  const int64_t n = blockIdx.x / plane_blocks;
  const int j = (blockIdx.x % plane_blocks) * blockDim.y + threadIdx.y;
  if (j >= gather.out_planes) return;
  const int columns = gather.out_size[2] / V, height = gather.out_size[1];
  const int row_groups = (height + kRowsPerThread - 1) / kRowsPerThread;
  const int64_t in_pixels = static_cast<int64_t>(gather.in_size[0]) * gather.in_size[1] * gather.in_size[2];
  const int64_t out_pixels = static_cast<int64_t>(gather.out_size[0]) * height * gather.out_size[2];
  const T* in = static_cast<const T*>(gather.in) + n * gather.in_planes * in_pixels;
  T* out = static_cast<T*>(gather.out) + (n * gather.out_planes + j) * out_pixels;
  int first, last;
  gather.entries(j, first, last);

  const unsigned groups = static_cast<unsigned>(columns) * row_groups * gather.out_size[0];
  for (unsigned group = blockIdx.y * blockDim.x + threadIdx.x; group < groups; group += gridDim.y * blockDim.x) {
    const int x0 = group % columns * V, y0 = group / columns % row_groups * kRowsPerThread;
    const int z = group / columns / row_groups;
    A acc[kRowsPerThread][V] = {};
    for (int at = first; at < last; ++at) {
      Taps<A> taps;
      const int plane = gather.entry(at, taps);
      if (plane >= 0) {
        sample_plane<T, V>(acc, in + plane * in_pixels, taps, gather, z, y0, x0);
      } else if (!gather.adjoint) {
#pragma unroll
        for (int i = 0; i < kRowsPerThread * V; ++i) acc[i / V][i % V] = not_a_number<A>();
      }
    }
#pragma unroll
    for (int r = 0; r < kRowsPerThread; ++r) {
      if (y0 + r < height) {
        store_pack<T, V>(out + (static_cast<int64_t>(z) * height + y0 + r) * gather.out_size[2] + x0, acc[r]);
      }
    }
  }
}

template <typename T, int V>
const char* gather_planes_of(const Gather& gather, int64_t batch, void* stream) {
  const int64_t groups = plane_groups(gather.out_size, V);
  if (groups == 0) return nullptr;
  const dim3 block = plane_block(groups);
  const int64_t blocks_x = batch * ((gather.out_planes + block.y - 1) / block.y);
  const int64_t blocks_y = (groups + block.x - 1) / block.x;
  if (blocks_x > INT32_MAX || groups > INT32_MAX) return "active shift: the image is too large for the CUDA kernels";
  const dim3 grid(static_cast<unsigned>(blocks_x),
                  static_cast<unsigned>(blocks_y < kMostBlocksY ? blocks_y : kMostBlocksY));
  return launch(gather_planes_kernel<T, V>, grid, block, 0, stream, gather);
}

// The widest vector that every row of both images is aligned to.
template <typename T>
int widest_vector(const int (&a)[3], const int (&b)[3], const void* p, const void* q, bool unit) {
  const uintptr_t addresses = reinterpret_cast<uintptr_t>(p) | reinterpret_cast<uintptr_t>(q);
  int v = 16 / sizeof(T);
  while (v > 1 && (!unit || (a[2] | b[2]) % v != 0 || addresses % (v * sizeof(T)) != 0)) v /= 2;
  return v;
}

template <typename T>
const char* gather_planes_typed(const Gather& gather, int64_t batch, void* stream) {
  const bool unit = gather.step[1] == 1 && gather.step[2] == 1;
  switch (widest_vector<T>(gather.in_size, gather.out_size, gather.in, gather.out, unit)) {
    case 8:
      if constexpr (sizeof(T) <= 2) return gather_planes_of<T, 8>(gather, batch, stream);
      [[fallthrough]];
    case 4:
      if constexpr (sizeof(T) <= 4) return gather_planes_of<T, 4>(gather, batch, stream);
      [[fallthrough]];
    case 2:
      return gather_planes_of<T, 2>(gather, batch, stream);
    default:
      return gather_planes_of<T, 1>(gather, batch, stream);
  }
}

}  // namespace asl::cuda
