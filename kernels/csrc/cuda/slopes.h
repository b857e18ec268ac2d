// One launch of the shift gradient: per row and axis, the sum over all pixels of gradient times slope.
#pragma once

#include "launch.cuh"
#include "taps.cuh"

namespace asl::cuda {

struct SlopeSums {
  Problem problem;
  const void* x;
  const void* grad;
  // [chunks, K, 3 axes] in the compute type: one sum per block, which a second launch adds up in order.
  void* partial;
};

constexpr int kSlopeThreads = 256;

// Sums COUNT values over the threads that differ in one direction only: `at` is the thread's place among `among`
// threads that lie `apart` in the block. The order does not depend on how threads run; place 0 has the result.
template <int COUNT, typename A>
__device__ __forceinline__ void block_sums(A (&values)[COUNT], int at, int among, int apart) {
  __shared__ A shared[COUNT][kSlopeThreads];
  const int mine = threadIdx.y * blockDim.x + threadIdx.x;
#pragma unroll
  for (int i = 0; i < COUNT; ++i) shared[i][mine] = values[i];
  for (int left = among; left > 1;) {
    const int half = (left + 1) / 2;
    __syncthreads();
    if (at + half < left) {
#pragma unroll
      for (int i = 0; i < COUNT; ++i) shared[i][mine] += shared[i][mine + half * apart];
    }
    left = half;
  }
#pragma unroll
  for (int i = 0; i < COUNT; ++i) values[i] = shared[i][mine];
}

struct PixelTiles;

// How a launch is cut up; the workspace is asked for before the launch.
struct Cut {
  dim3 grid, block;
  int64_t chunks;
  const char* error;
};

// The same for every type of one width.
int slope_vector(const Problem& problem, int type, const void* x, const void* grad);
Cut slope_planes_cut(const Problem& problem, int64_t batch, int v);
Cut slope_pixels_cut(const Problem& problem, int64_t batch, int v);

}  // namespace asl::cuda
