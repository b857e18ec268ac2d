// The shift gradient of images with their channels last in memory.
#include "gather_pixels.cuh"
#include "slopes.h"

namespace asl::cuda {
namespace {

// Runs of pixels that a thread sums over before its block's sum is written.
constexpr int kRunsPerThread = 8;

// sums += the slopes of channel k over the run of kRun output pixels from x0 on.
template <typename T>
__device__ __forceinline__ void run_slopes(compute_t<T> (&sums)[3], const T* image, const T* grad_row,
                                           const Slopes<compute_t<T>>& taps, const Problem& problem, int z, int y,
                                           int x0) {
  using A = compute_t<T>;
  const int width = problem.size[2], out_width = problem.out[2], step = problem.stride[2];
  A grad[kRun];
#pragma unroll
  for (int p = 0; p < kRun; ++p) {
    grad[p] = step == 1 && x0 + p < out_width ? widened(__ldg(grad_row + static_cast<int64_t>(x0 + p) * problem.rows))
                                              : A(0);
  }
  const bool whole = taps.slope[2][2] != A(0);
#pragma unroll 1
  for (int tz = 0; tz < 3; ++tz) {
    const A z_weight = entry_of(taps.sample[0], tz), z_slope = entry_of(taps.slope[0], tz);
    const int at_z = z * problem.stride[0] + taps.base[0] + tz;
    if ((z_weight == A(0) && z_slope == A(0)) || !within(at_z, problem.size[0])) continue;
#pragma unroll 1
    for (int ty = 0; ty < 3; ++ty) {
      const A y_weight = entry_of(taps.sample[1], ty);
      const A along_x = y_weight * z_weight, along_y = entry_of(taps.slope[1], ty) * z_weight;
      const A along_z = y_weight * z_slope;
      const int at_y = y * problem.stride[1] + taps.base[1] + ty;
      if ((along_x == A(0) && along_y == A(0) && along_z == A(0)) || !within(at_y, problem.size[1])) continue;
      const T* row = image + (static_cast<int64_t>(at_z) * problem.size[1] + at_y) * width * problem.channels;
      // products[t]: gradient times the pixel of tap t.
      A products[3] = {A(0), A(0), A(0)};
      const int column = x0 * step + taps.base[2];
      if (step == 1) {
        // Steps from pixel to pixel instead of an offset for each, which would take twenty registers; and all loads
        // before the first use.
        const T* pixel = row + static_cast<int64_t>(column) * problem.channels;
        A values[kRun + 2];
#pragma unroll
        for (int i = 0; i < kRun + 2; ++i, pixel += problem.channels) {
          const bool wanted = within(column + i, width) && (i < kRun + 1 || whole);
          values[i] = wanted ? widened(__ldg(pixel)) : A(0);
        }
        // As in the row-major kernel, a 0 adds nothing, whatever the gradient is.
#pragma unroll
        for (int i = 0; i < kRun + 2; ++i) {
          if (values[i] == A(0)) continue;
#pragma unroll
          for (int t = 0; t < 3; ++t) {
            const int p = i - t;
            if (p >= 0 && p < kRun && x0 + p < out_width) products[t] += grad[p >= 0 && p < kRun ? p : 0] * values[i];
          }
        }
      } else {
#pragma unroll 1
        for (int p = 0; p < kRun && x0 + p < out_width; ++p) {
          const A upstream = widened(__ldg(grad_row + static_cast<int64_t>(x0 + p) * problem.rows));
#pragma unroll
          for (int t = 0; t < 3; ++t) {
            const int at = column + p * step + t;
            if (!within(at, width) || (t == 2 && !whole)) continue;
            products[t] += upstream * widened(__ldg(row + static_cast<int64_t>(at) * problem.channels));
          }
        }
      }
      // A weight of 0 must not turn another tap's NaN into its own.
      A sampled = A(0), sloped = A(0);
#pragma unroll
      for (int t = 0; t < 3; ++t) {
        if (taps.sample[2][t] != A(0)) sampled += taps.sample[2][t] * products[t];
        if (taps.slope[2][t] != A(0)) sloped += taps.slope[2][t] * products[t];
      }
      if (along_x != A(0)) sums[2] += along_x * sloped;
      if (along_y != A(0)) sums[1] += along_y * sampled;
      if (along_z != A(0)) sums[0] += along_z * sampled;
    }
  }
}

template <typename T, int V>
__global__ void __launch_bounds__(kSlopeThreads, 2) slope_pixels_kernel(const SlopeSums given, int64_t batch) {
  using A = compute_t<T>;
  const Problem& problem = given.problem;
  const PixelRow at(problem.out, problem.rows, V);
  A sums[3 * V] = {};
#pragma unroll
  for (int lane = 0; lane < V; ++lane) {
    const int k = at.channel + lane;
    if (at.n >= batch || k >= problem.rows) continue;
    Slopes<A> taps;
    const int channel = read_slopes(problem, k, taps);
    A mine[3] = {A(0), A(0), A(0)};
    if (channel < 0) {
      mine[0] = mine[1] = mine[2] = not_a_number<A>();
    } else {
      const T* image = static_cast<const T*>(given.x) + at.n * problem.pixels() * problem.channels + channel;
      const T* grad = static_cast<const T*>(given.grad) + k +
                      ((at.n * problem.out[0] + at.z) * problem.out[1] + at.y) * problem.out[2] * problem.rows;
      const int64_t from = static_cast<int64_t>(blockIdx.y) * kRunsPerThread * kRun;
      for (int run = 0; run < kRunsPerThread && from + run * kRun < problem.out[2]; ++run) {
        run_slopes(mine, image, grad, taps, problem, at.z, at.y, static_cast<int>(from) + run * kRun);
      }
    }
#pragma unroll
    for (int axis = 0; axis < 3; ++axis) sums[lane * 3 + axis] = mine[axis];
  }
  block_sums(sums, threadIdx.y, blockDim.y, blockDim.x);
  if (threadIdx.y != 0) return;
  const int slices = (problem.rows + blockDim.x * V - 1) / (blockDim.x * V);
  const int64_t chunk = static_cast<int64_t>(blockIdx.x / slices) * gridDim.y + blockIdx.y;
#pragma unroll
  for (int i = 0; i < 3 * V; ++i) {
    if (at.channel + i / 3 < problem.rows) {
      static_cast<A*>(given.partial)[(chunk * problem.rows + at.channel) * 3 + i] = sums[i];
    }
  }
}

}  // namespace

Cut slope_pixels_cut(const Problem& problem, int64_t batch, int v) {
  Cut cut{};
  cut.block = pixel_block(problem.rows, v);
  const int64_t slices = (problem.rows + cut.block.x * v - 1) / (cut.block.x * v);
  const int64_t row_blocks = (batch * problem.out[0] * problem.out[1] + cut.block.y - 1) / cut.block.y;
  const int64_t blocks_y = (problem.out[2] + kRunsPerThread * kRun - 1) / (kRunsPerThread * kRun);
  if (row_blocks * slices > INT32_MAX || blocks_y > kMostBlocksY) {
    cut.error = "active shift: the image is too large for the CUDA kernels";
  }
  cut.grid = dim3(static_cast<unsigned>(row_blocks * slices), static_cast<unsigned>(blocks_y));
  cut.chunks = row_blocks * blocks_y;
  return cut;
}

const char* slope_pixels(const SlopeSums& given, const Cut& cut, int64_t batch, int type, int v, void* stream) {
  const auto start = [&](auto kernel) { return launch(kernel, cut.grid, cut.block, 0, stream, given, batch); };
  switch (type) {
    case kFloat32:
      return start(slope_pixels_kernel<float, 1>);
    case kFloat64:
      return start(slope_pixels_kernel<double, 1>);
    case kBFloat16:
      return v == 2 ? start(slope_pixels_kernel<__nv_bfloat16, 2>) : start(slope_pixels_kernel<__nv_bfloat16, 1>);
    default:
      return v == 2 ? start(slope_pixels_kernel<__half, 2>) : start(slope_pixels_kernel<__half, 1>);
  }
}

}  // namespace asl::cuda
