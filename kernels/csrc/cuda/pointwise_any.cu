// The fused op for every type and one to three axes, without tensor cores: where the tile kernel cannot go.
#include "launch.cuh"
#include "pointwise_table.cuh"

namespace asl::cuda::pointwise {
namespace {

constexpr int kTile = 64, kDepth = 16, kEach = 4;  // pixels and columns of a block, rows of a slab, of a thread

struct Float64 {
  using Stored = double;
  using Sum = double;
  static __device__ __forceinline__ double widen(double value) { return value; }
  static __device__ __forceinline__ double narrow(double value) { return value; }
};
struct Plain32 {
  using Stored = float;
  using Sum = float;
  static __device__ __forceinline__ float widen(float value) { return value; }
  static __device__ __forceinline__ float narrow(float value) { return value; }
};
template <typename E>
struct Plain16 {
  using Stored = uint16_t;
  using Sum = float;
  static __device__ __forceinline__ float widen(uint16_t value) { return E::widen(value); }
  static __device__ __forceinline__ uint16_t narrow(float value) { return static_cast<uint16_t>(E::pack(value, 0.0f)); }
};

// Position of an output pixel's window in the input, and of its first output channel.
struct Pixel {
  int64_t image, at[3], out;
};

template <typename A>
struct SampledRow {
  int whole[3];
  A fraction[3];
  int64_t channel;  // -1 past K
};

__device__ __forceinline__ Pixel locate(const PointwiseProblem& problem, int64_t pixel) {
  const int64_t plane = problem.out_size[0] * problem.out_size[1] * problem.out_size[2];
  Pixel result;
  result.image = pixel / plane;
  const int64_t within = pixel % plane, x = within % problem.out_size[2], line = within / problem.out_size[2];
  result.at[0] = line / problem.out_size[1] * problem.stride[0];
  result.at[1] = line % problem.out_size[1] * problem.stride[1];
  result.at[2] = x * problem.stride[2];
  result.out = problem.channels_last ? pixel * problem.out_channels
                                     : result.image * problem.out_channels * plane + within;
  return result;
}

template <typename A>
__device__ __forceinline__ SampledRow<A> read_row(const PointwiseProblem& problem, int64_t k) {
  SampledRow<A> row{};
  row.channel = -1;
  if (k >= problem.rows) return row;
#pragma unroll
  for (int axis = 0; axis < 3; ++axis) {
    const int column = problem.axes - 3 + axis;
    if (column >= 0) read_shift(problem, k * problem.axes + column, &row.whole[axis], &row.fraction[axis]);
  }
  row.channel = problem.source == nullptr ? k : problem.source[k];
  if (row.channel < 0 || row.channel >= problem.channels) {
    row.channel = 0;
    row.fraction[2] = static_cast<A>(__uint_as_float(0x7fffffffu));
  }
  return row;
}

// A tap of weight zero, or outside the image, is never read.
template <typename T>
__device__ typename T::Sum sample(const PointwiseProblem& problem, const SampledRow<typename T::Sum>& row,
                                  const Pixel& pixel) {
  using A = typename T::Sum;
  if (row.channel < 0) return A(0);
  const auto* x = static_cast<const typename T::Stored*>(problem.x);
  const int64_t image = problem.size[0] * problem.size[1] * problem.size[2];
  A sum = A(0);
#pragma unroll
  for (int corner = 0; corner < 8; ++corner) {
    A weight = A(1);
    int64_t at = 0;
    bool inside = true;
#pragma unroll
    for (int axis = 0; axis < 3; ++axis) {
      const int side = corner >> (2 - axis) & 1;
      weight *= side == 1 ? row.fraction[axis] : A(1) - row.fraction[axis];
      const int64_t coordinate = pixel.at[axis] + row.whole[axis] + side;
      inside = inside && coordinate >= 0 && coordinate < problem.size[axis];
      at = at * problem.size[axis] + coordinate;
    }
    if (weight == A(0)) continue;
    A value = A(0);
    if (inside) {
      value = T::widen(problem.channels_last ? x[(pixel.image * image + at) * problem.channels + row.channel]
                                             : x[(pixel.image * problem.channels + row.channel) * image + at]);
    }
    sum += weight * value;
  }
  return sum;
}

template <typename T>
__global__ void __launch_bounds__(256, 2) shift_pointwise_any(PointwiseProblem problem, int64_t pixels, int64_t tiles) {
  using A = typename T::Sum;
  __shared__ A left[kDepth][kTile + 1], right[kDepth][kTile + 1];
  __shared__ Pixel pixel[kTile];
  __shared__ SampledRow<A> row[kDepth];
  const int thread = threadIdx.x;
  const auto* weight = static_cast<const typename T::Stored*>(problem.weight);
  const auto* bias = static_cast<const typename T::Stored*>(problem.bias);
  const auto* residual = static_cast<const typename T::Stored*>(problem.residual);
  const int64_t columns = (problem.out_channels + kTile - 1) / kTile;
  const int64_t step = problem.channels_last ? 1 : problem.out_size[0] * problem.out_size[1] * problem.out_size[2];
  // Neighbouring threads hold neighbours of the output: columns in channels_last, pixels in planes.
  const int fast = thread % (kTile / kEach), slow = thread / (kTile / kEach);
  const int my_pixel = problem.channels_last ? slow : fast, my_column = problem.channels_last ? fast : slow;

  for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const int64_t first = tile / columns * kTile, column = tile % columns * kTile;
    __syncthreads();
    if (thread < kTile) pixel[thread] = locate(problem, min(first + thread, pixels - 1));
    A sum[kEach][kEach] = {};
    for (int64_t k = 0; k < problem.rows; k += kDepth) {
      if (thread < kDepth) row[thread] = read_row<A>(problem, k + thread);
      __syncthreads();
      for (int i = thread; i < kDepth * kTile; i += 256) {
        const int p = problem.channels_last ? i / kDepth : i % kTile;
        const int r = problem.channels_last ? i % kDepth : i / kTile;
        // Rounded to the type of x, as the tensor cores take it and as active_shift gives it.
        left[r][p] = T::widen(T::narrow(sample<T>(problem, row[r], pixel[p])));
        const int64_t n = column + i / kDepth, at = k + i % kDepth;
        right[i % kDepth][i / kDepth] =
            n < problem.out_channels && at < problem.rows ? T::widen(weight[n * problem.rows + at]) : A(0);
      }
      __syncthreads();
#pragma unroll
      for (int r = 0; r < kDepth; ++r) {
        A a[kEach], b[kEach];
#pragma unroll
        for (int i = 0; i < kEach; ++i) {
          a[i] = left[r][my_pixel + i * (kTile / kEach)];
          b[i] = right[r][my_column + i * (kTile / kEach)];
        }
#pragma unroll
        for (int i = 0; i < kEach; ++i) {
#pragma unroll
          for (int j = 0; j < kEach; ++j) sum[i][j] = fma(a[i], b[j], sum[i][j]);
        }
      }
      __syncthreads();
    }
    // Without rows no barrier has made the pixels visible yet.
    if (problem.rows == 0) __syncthreads();
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int p = my_pixel + i * (kTile / kEach);
      if (first + p >= pixels) continue;
#pragma unroll
      for (int j = 0; j < kEach; ++j) {
        const int64_t n = column + my_column + j * (kTile / kEach);
        if (n >= problem.out_channels) continue;
        const int64_t at = pixel[p].out + n * step;
        A value = sum[i][j];
        if (bias != nullptr) value += T::widen(bias[n]);
        if (residual != nullptr) value += T::widen(residual[at]);
        if (problem.relu && value < A(0)) value = A(0);
        static_cast<typename T::Stored*>(problem.out)[at] = T::narrow(value);
      }
    }
  }
}

template <typename T>
const char* start(const PointwiseProblem& problem, void* stream) {
  constexpr int64_t kMostBlocks = int64_t{1} << 30;
  const int64_t pixels = problem.batch * problem.out_size[0] * problem.out_size[1] * problem.out_size[2];
  const int64_t tiles = (pixels + kTile - 1) / kTile * ((problem.out_channels + kTile - 1) / kTile);
  const auto blocks = static_cast<unsigned>(tiles < kMostBlocks ? tiles : kMostBlocks);
  return launch(shift_pointwise_any<T>, dim3(blocks), dim3(256), 0, stream, problem, pixels, tiles);
}

}  // namespace
}  // namespace asl::cuda::pointwise

using namespace asl::cuda;

#ifndef ASL_EMULATE
extern "C" const char* asl_pointwise_device(int index, Device* device) {
  const struct {
    cudaDeviceAttr attribute;
    int32_t* value;
  } wanted[] = {{cudaDevAttrMultiProcessorCount, &device->multiprocessors},
                {cudaDevAttrMaxSharedMemoryPerBlockOptin, &device->shared_per_block},
                {cudaDevAttrMaxSharedMemoryPerMultiprocessor, &device->shared_per_multiprocessor}};
  for (const auto& each : wanted) {
    const cudaError_t error = cudaDeviceGetAttribute(each.value, each.attribute, index);
    if (error != cudaSuccess) return cudaGetErrorString(error);
  }
  return nullptr;
}
#endif

extern "C" const char* asl_pointwise_any(const PointwiseProblem* problem, Real type, void* stream) {
  switch (type) {
    case Real::float32: return pointwise::start<pointwise::Plain32>(*problem, stream);
    case Real::float64: return pointwise::start<pointwise::Float64>(*problem, stream);
    case Real::bfloat16: return pointwise::start<pointwise::Plain16<pointwise::Bfloat16>>(*problem, stream);
    default: return pointwise::start<pointwise::Plain16<pointwise::Float16>>(*problem, stream);
  }
}
