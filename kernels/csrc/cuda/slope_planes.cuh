// The shift gradient of images that lie row-major: one read of x and of the gradient for all axes.
#pragma once

#include "gather_planes.cuh"
#include "slopes.h"

namespace asl::cuda {

// The row of x from one tap on, sampled along x, and its derivative along x; both 0 where no pixel exists.
template <int V, typename T>
__device__ __forceinline__ void sample_slopes(compute_t<T> (&sample)[V], compute_t<T> (&slope)[V], const T* row,
                                              int column, int width, const Slopes<compute_t<T>>& taps) {
  using A = compute_t<T>;
  A window[V + 2];
  load_window<V>(window, row, column, width);
  const bool whole = taps.slope[2][2] != A(0);
#pragma unroll
  for (int e = 0; e < V; ++e) {
    sample[e] = whole ? window[e + 1] : taps.sample[2][0] * window[e] + taps.sample[2][1] * window[e + 1];
    slope[e] = whole ? A(0.5) * (window[e + 2] - window[e]) : window[e + 1] - window[e];
  }
}

// A slope of exactly 0 adds nothing, so that a gradient that is not finite stays away where no pixel was read.
template <int V, typename A>
__device__ __forceinline__ A dot(const A (&grad)[V], const A (&slope)[V]) {
  A sum = A(0);
#pragma unroll
  for (int e = 0; e < V; ++e) {
    if (slope[e] != A(0)) sum += grad[e] * slope[e];
  }
  return sum;
}

// Adds what one row of x gives to the slopes of one output row; t is the tap along y, z and dz the weights along z.
template <int V, typename A>
__device__ __forceinline__ void add_row(A (&sums)[3], const A (&grad)[V], const A (&sample)[V], const A (&slope)[V],
                                        const Slopes<A>& taps, int t, A z, A dz) {
  const A along_y = taps.slope[1][t] * z, along_z = taps.sample[1][t] * dz, along_x = taps.sample[1][t] * z;
  if (along_y != A(0) || along_z != A(0)) {
    const A product = dot(grad, sample);
    if (along_y != A(0)) sums[1] += along_y * product;
    if (along_z != A(0)) sums[0] += along_z * product;
  }
  if (along_x != A(0)) sums[2] += along_x * dot(grad, slope);
}

template <typename T, int V>
__device__ __forceinline__ void group_slopes(compute_t<T> (&sums)[3], const T* plane, const T* grad_plane,
                                             const Slopes<compute_t<T>>& taps, const Problem& problem, int z, int y0,
                                             int x0) {
  using A = compute_t<T>;
  const int height = problem.size[1], width = problem.size[2];
  A grad[kRowsPerThread][V];
#pragma unroll
  for (int r = 0; r < kRowsPerThread; ++r) {
    const int64_t row = static_cast<int64_t>(z) * problem.out[1] + y0 + r;
    load_window<V>(grad[r], grad_plane + row * problem.out[2], x0, y0 + r < problem.out[1] ? problem.out[2] : 0);
  }
  const int column = x0 * problem.stride[2] + taps.base[2];
#pragma unroll 1
  for (int tz = 0; tz < 3; ++tz) {
    const A weight = entry_of(taps.sample[0], tz), derivative = entry_of(taps.slope[0], tz);
    const int at_z = z * problem.stride[0] + taps.base[0] + tz;
    if ((weight == A(0) && derivative == A(0)) || !within(at_z, problem.size[0])) continue;
    const T* slice = plane + static_cast<int64_t>(at_z) * height * width;
    A sample[V], slope[V];
    if (problem.stride[1] == 1) {
#pragma unroll
      for (int i = 0; i < kRowsPerThread + 2; ++i) {
        const int at_y = y0 + i + taps.base[1];
        if (!within(at_y, height)) continue;
        sample_slopes<V>(sample, slope, slice + static_cast<int64_t>(at_y) * width, column, width, taps);
#pragma unroll
        for (int t = 0; t < 3; ++t) {
          const int r = i - t;
          if (r >= 0 && r < kRowsPerThread && y0 + r < problem.out[1]) {
            add_row(sums, grad[r >= 0 && r < kRowsPerThread ? r : 0], sample, slope, taps, t, weight, derivative);
          }
        }
      }
    } else {
#pragma unroll
      for (int r = 0; r < kRowsPerThread; ++r) {
#pragma unroll
        for (int t = 0; t < 3; ++t) {
          const int at_y = (y0 + r) * problem.stride[1] + taps.base[1] + t;
          if (!within(at_y, height) || y0 + r >= problem.out[1]) continue;
          sample_slopes<V>(sample, slope, slice + static_cast<int64_t>(at_y) * width, column, width, taps);
          add_row(sums, grad[r], sample, slope, taps, t, weight, derivative);
        }
      }
    }
  }
}

template <typename T, int V>
__global__ void __launch_bounds__(kSlopeThreads, 2) slope_planes_kernel(const SlopeSums given) {
  using A = compute_t<T>;
  const Problem& problem = given.problem;
  const int plane_blocks = (problem.rows + blockDim.y - 1) / blockDim.y;
  const int64_t n = blockIdx.x / plane_blocks;
  const int k = (blockIdx.x % plane_blocks) * blockDim.y + threadIdx.y;
  A sums[3] = {A(0), A(0), A(0)};
  if (k < problem.rows) {
    Slopes<A> taps;
    const int channel = read_slopes(problem, k, taps);
    if (channel < 0) {
      sums[0] = sums[1] = sums[2] = not_a_number<A>();
    } else {
      const T* plane = static_cast<const T*>(given.x) + (n * problem.channels + channel) * problem.pixels();
      const T* grad = static_cast<const T*>(given.grad) + (n * problem.rows + k) * problem.out_pixels();
      const unsigned columns = problem.out[2] / V;
      const unsigned row_groups = (problem.out[1] + kRowsPerThread - 1) / kRowsPerThread;
      const unsigned groups = columns * row_groups * problem.out[0];
      for (unsigned group = blockIdx.y * blockDim.x + threadIdx.x; group < groups; group += gridDim.y * blockDim.x) {
        group_slopes<T, V>(sums, plane, grad, taps, problem, group / columns / row_groups,
                           group / columns % row_groups * kRowsPerThread, group % columns * V);
      }
    }
  }
  block_sums(sums, threadIdx.x, blockDim.x, 1);
  if (threadIdx.x == 0 && k < problem.rows) {
    A* to = static_cast<A*>(given.partial) + ((n * gridDim.y + blockIdx.y) * problem.rows + k) * 3;
    for (int axis = 0; axis < 3; ++axis) to[axis] = sums[axis];
  }
}

template <typename T>
const char* slope_planes_typed(const SlopeSums& given, const Cut& cut, int v, void* stream) {
  switch (v) {
    case 8:
      if constexpr (sizeof(T) <= 2) return launch(slope_planes_kernel<T, 8>, cut.grid, cut.block, 0, stream, given);
      [[fallthrough]];
    case 4:
      if constexpr (sizeof(T) <= 4) return launch(slope_planes_kernel<T, 4>, cut.grid, cut.block, 0, stream, given);
      [[fallthrough]];
    case 2:
      return launch(slope_planes_kernel<T, 2>, cut.grid, cut.block, 0, stream, given);
    default:
      return launch(slope_planes_kernel<T, 1>, cut.grid, cut.block, 0, stream, given);
  }
}

}  // namespace asl::cuda
