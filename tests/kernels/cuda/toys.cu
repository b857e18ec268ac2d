// Small kernels, right and deliberately wrong, that test the emulator itself.
#include "launch.cuh"

using namespace asl::cuda;

namespace {

constexpr int kThreads = 128;

// With `fault` 1 the barrier is missing, with 2 half of the threads never reach it, with 3 an entry is never written.
__global__ void reverse(const float* from, float* to, int fault) {
  __shared__ float tile[kThreads];
  const int t = threadIdx.x;
  if (fault != 3 || t != 5) tile[t] = from[t];
  if (fault == 2 && t < kThreads / 2) return;
  if (fault != 1) __syncthreads();
  to[t] = tile[kThreads - 1 - t];
}

__global__ void twice_the_tile(const float* from, float* to, int barriers) {
  __shared__ float tile[kThreads];
  for (int round = 0; round < 2; ++round) {
    tile[threadIdx.x] = from[round * kThreads + threadIdx.x];
    __syncthreads();
    to[round * kThreads + threadIdx.x] = tile[threadIdx.x ^ 1];
    if (barriers == 2) __syncthreads();
  }
}

// Lanes of one warp hand values on through shared memory.
__global__ void neighbours(const float* from, float* to, int ordered) {
  ASL_DYNAMIC_SHARED(float, tile);
  tile[threadIdx.x] = from[threadIdx.x];
  if (ordered) __syncwarp();
  to[threadIdx.x] = tile[(threadIdx.x + 1) % 32];
}

__global__ void pipelined_copy(const float4* from, float4* to, int count, int waits) {
  ASL_DYNAMIC_SHARED(float4, stages);
  const int t = threadIdx.x, threads = blockDim.x;
  cp_async<16>(&stages[t], &from[t], t < count);
  cp_async_commit();
  for (int at = 0; at < count; at += threads) {
    const int stage = at / threads % 2;
    const int next = at + threads + t;
    cp_async<16>(&stages[(stage ^ 1) * threads + t], &from[next], next < count);
    cp_async_commit();
    if (waits == 1) cp_async_wait<1>();
    __syncthreads();
    if (at + t < count) to[at + t] = stages[stage * threads + (t ^ 1)];
    __syncthreads();
  }
  cp_async_wait<0>();
}

__global__ void scale(const float* from, float* to, int count) {
  const int at = blockIdx.x * blockDim.x + threadIdx.x;
  if (at < count) to[at] = 2.0f * from[at];
}

__global__ void wide_copy(const float* from, float* to) {
  reinterpret_cast<float4*>(to)[threadIdx.x] = reinterpret_cast<const float4*>(from)[threadIdx.x];
}

__global__ void everybody_first(float* to) { to[0] = 1.0f; }

__global__ void products(int* to, int by) { to[threadIdx.x] = static_cast<int>(threadIdx.x) * by; }

__global__ void warp_sums(const double* from, double* to) {
  double value = from[blockIdx.x * 32 + threadIdx.x];
  for (int step = 16; step > 0; step /= 2) value += __shfl_down_sync(0xffffffffu, value, step);
  if (threadIdx.x == 0) to[blockIdx.x] = value;
}

// c[16, 8] = a[16, 16] . b; b is [8, 16] (rows are columns of the product) or, transposed, [16, 8].
template <bool BFLOAT16, bool TRANSPOSED>
__global__ void multiply(const uint16_t* a, const uint16_t* b, float* c) {
  __shared__ __align__(16) uint16_t left[16][16], right[128];
  const int lane = threadIdx.x;
  for (int i = lane; i < 256; i += 32) left[i / 16][i % 16] = a[i];
  for (int i = lane; i < 128; i += 32) right[i] = b[i];
  __syncwarp();
  uint32_t x[4], y[2];
  ldmatrix_x4(x, &left[lane % 16][lane / 16 * 8]);
  if constexpr (TRANSPOSED) {
    ldmatrix_x2_trans(y, &right[lane % 16 * 8]);
  } else {
    ldmatrix_x2(y, &right[lane % 8 * 16 + lane / 8 % 2 * 8]);
  }
  float sums[4] = {0, 0, 0, 0};
  if constexpr (BFLOAT16) {
    mma_bf16(sums, x, y);
  } else {
    mma_f16(sums, x, y);
  }
  for (int i = 0; i < 4; ++i) c[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sums[i];
}

// c[16, 8] = a[16, 8] . b[8, 8]
__global__ void multiply_tf32(const float* a, const float* b, float* c) {
  const int row = threadIdx.x / 4, at = threadIdx.x % 4;
  const uint32_t x[4] = {to_tf32(a[row * 8 + at]), to_tf32(a[(row + 8) * 8 + at]), to_tf32(a[row * 8 + at + 4]),
                         to_tf32(a[(row + 8) * 8 + at + 4])};
  const uint32_t y[2] = {to_tf32(b[at * 8 + row]), to_tf32(b[(at + 4) * 8 + row])};
  float sums[4] = {0, 0, 0, 0};
  mma_tf32(sums, x, y);
  for (int i = 0; i < 4; ++i) c[(row + i / 2 * 8) * 8 + at * 2 + i % 2] = sums[i];
}

}  // namespace

extern "C" {

const char* toy_reverse(const float* from, float* to, int64_t fault) {
  return launch(reverse, 1, kThreads, 0, nullptr, from, to, fault);
}
const char* toy_twice(const float* from, float* to, int64_t barriers) {
  return launch(twice_the_tile, 1, kThreads, 0, nullptr, from, to, barriers);
}
const char* toy_neighbours(const float* from, float* to, int64_t ordered) {
  return launch(neighbours, 1, 32, 32 * sizeof(float), nullptr, from, to, ordered);
}
const char* toy_pipelined_copy(const float4* from, float4* to, int64_t count, int64_t waits) {
  return launch(pipelined_copy, 1, 64, 2 * 64 * sizeof(float4), nullptr, from, to, count, waits);
}
const char* toy_scale(const float* from, float* to, int64_t blocks, int64_t count) {
  return launch(scale, dim3(blocks), 32, 0, nullptr, from, to, count);
}
const char* toy_wide_copy(const float* from, float* to, int64_t threads) {
  return launch(wide_copy, 1, dim3(threads), 0, nullptr, from, to);
}
const char* toy_everybody_first(float* to, int64_t blocks) {
  return launch(everybody_first, dim3(blocks), 1, 0, nullptr, to);
}
const char* toy_products(int* to, int64_t by) { return launch(products, 1, 32, 0, nullptr, to, by); }
const char* toy_warp_sums(const double* from, double* to, int64_t blocks) {
  return launch(warp_sums, dim3(blocks), 32, 0, nullptr, from, to);
}
const char* toy_multiply(const uint16_t* a, const uint16_t* b, float* c, int64_t bfloat16, int64_t transposed) {
  const auto kernel = bfloat16 ? (transposed ? multiply<true, true> : multiply<true, false>)
                               : (transposed ? multiply<false, true> : multiply<false, false>);
  return launch(kernel, 1, 32, 0, nullptr, a, b, c);
}
const char* toy_multiply_tf32(const float* a, const float* b, float* c) {
  return launch(multiply_tf32, 1, 32, 0, nullptr, a, b, c);
}

}  // extern "C"
