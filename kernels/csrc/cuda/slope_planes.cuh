// The shift gradient of images that lie row-major: one read of x and of the gradient for all axes.
#pragma once

#include "gather_planes.cuh"
#include "slopes.h"

namespace asl::cuda {

// A row of x under way. The last pixel comes by itself: it is needed at whole pixels only, and as part of the run it
// would cost a third vector.
template <typename T, int V>
struct SlopeRun {
  Run<T, V, V + 1> run;
  compute_t<T> last;

  __device__ __forceinline__ void fetch(const T* row, int column, int width, bool wanted, bool whole) {
    run.fetch(row, column, width, wanted);
    last = wanted && whole && within(column + V + 1, width) ? widened(__ldg(row + column + V + 1)) : compute_t<T>(0);
  }

  // The row sampled along x, and its derivative along x; both 0 where no pixel exists.
  __device__ __forceinline__ void open(compute_t<T> (&sample)[V], compute_t<T> (&slope)[V], int column,
                                       const Slopes<compute_t<T>>& taps, bool whole) const {
    using A = compute_t<T>;
    A window[V + 1];
    run.open(window, column);
#pragma unroll
    for (int e = 0; e < V; ++e) {
      const A after = e + 2 <= V ? window[e + 2 <= V ? e + 2 : 0] : last;
      sample[e] = whole ? window[e + 1] : taps.sample[2][0] * window[e] + taps.sample[2][1] * window[e + 1];
      slope[e] = whole ? A(0.5) * (after - window[e]) : window[e + 1] - window[e];
    }
  }
};

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
  const bool whole = taps.slope[2][2] != A(0);
  A grad[kRowsPerThread][V];
#pragma unroll
  for (int r = 0; r < kRowsPerThread; ++r) {
    const int64_t row = static_cast<int64_t>(z) * problem.out[1] + y0 + r;
    load_aligned<V>(grad[r], grad_plane + row * problem.out[2] + x0, y0 + r < problem.out[1]);
  }
  const int column = x0 * problem.stride[2] + taps.base[2];
#pragma unroll 1
  for (int tz = 0; tz < 3; ++tz) {
    const A weight = entry_of(taps.sample[0], tz), derivative = entry_of(taps.slope[0], tz);
    const int at_z = z * problem.stride[0] + taps.base[0] + tz;
    if ((weight == A(0) && derivative == A(0)) || !within(at_z, problem.size[0])) continue;
    const T* slice = plane + static_cast<int64_t>(at_z) * height * width;
    A sample[V], slope[V];
    // Vectors are chosen for unit steps only.
    if (V > 1 || problem.stride[1] == 1) {
      // Some rows ahead are under way while one is worked on; more would not fit into the registers.
      constexpr int kRows = kRowsPerThread + 2, kAhead = sizeof(T) == 8 ? 2 : 3;
      SlopeRun<T, V> runs[kAhead];
      const auto fetch = [&](int i) {
        const int at_y = y0 + i + taps.base[1];
        const bool wanted = within(at_y, height) && (i < kRows - 1 || taps.slope[1][2] != A(0));
        runs[i % kAhead].fetch(slice + static_cast<int64_t>(at_y) * width, column, width, wanted, whole);
      };
#pragma unroll
      for (int i = 0; i < kAhead; ++i) fetch(i);
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        runs[i % kAhead].open(sample, slope, column, taps, whole);
        if (i + kAhead < kRows) fetch(i + kAhead);
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
          SlopeRun<T, V> run;
          run.fetch(slice + static_cast<int64_t>(at_y) * width, column, width, true, whole);
          run.open(sample, slope, column, taps, whole);
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
