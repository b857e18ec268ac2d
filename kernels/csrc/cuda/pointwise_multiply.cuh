// A slab's product, summed in registers: a warp takes 32 pixels by its part of the columns.
#pragma once

#include "pointwise_table.cuh"

namespace asl::cuda::pointwise {

// In the layout of the tensor cores' accumulators: at[m][n] is a 16 x 8 tile, of which a lane holds the rows g and
// g + 8 (g = lane / 4) in the columns 2q and 2q + 1 (q = lane % 4).
template <typename T>
struct Sums {
  static constexpr int kTilesDown = 2, kTilesAcross = T::kWide / 8;
  float at[kTilesDown][kTilesAcross][4];
};

template <typename E, typename T>
__device__ __forceinline__ void multiply_slab(const char* left, const char* weights, Sums<T>& sums, int warp,
                                              int lane) {
  using S = Sums<T>;
  const int pixel = warp / T::kAcross * 32, column = warp % T::kAcross * T::kWide;
  if constexpr (E::kTensor) {
    // Unrolled further, the addresses of all steps would take more registers than there are.
#pragma unroll 2
    for (int step = 0; step < kLine / 32; ++step) {
      uint32_t a[S::kTilesDown][4];
#pragma unroll
      for (int m = 0; m < S::kTilesDown; ++m) {
        ldmatrix_x4(a[m], left + swizzled(pixel + m * 16 + lane % 16, step * 32 + lane / 16 * kChunk));
      }
#pragma unroll
      for (int n = 0; n < S::kTilesAcross; n += 2) {
        uint32_t words[4];
        ldmatrix_x4(words, weights + swizzled(column + n * 8 + lane / 16 * 8 + lane % 8,
                                              step * 32 + lane / 8 % 2 * kChunk));
        const uint32_t b[2][2] = {{E::operand(words[0]), E::operand(words[1])},
                                  {E::operand(words[2]), E::operand(words[3])}};
#pragma unroll
        for (int m = 0; m < S::kTilesDown; ++m) {
          E::multiply(sums.at[m][n], a[m], b[0]);
          E::multiply(sums.at[m][n + 1], a[m], b[1]);
        }
      }
    }
  } else {
    const int g = lane / 4, q = lane % 4;
#pragma unroll 1
    for (int chunk = 0; chunk < kLine / kChunk; ++chunk) {
      float4 a[S::kTilesDown][2];
#pragma unroll
      for (int m = 0; m < S::kTilesDown; ++m) {
        for (int half = 0; half < 2; ++half) {
          a[m][half] =
              *reinterpret_cast<const float4*>(left + swizzled(pixel + m * 16 + half * 8 + g, chunk * kChunk));
        }
      }
#pragma unroll
      for (int n = 0; n < S::kTilesAcross; ++n) {
#pragma unroll
        for (int side = 0; side < 2; ++side) {
          const float4 b =
              *reinterpret_cast<const float4*>(weights + swizzled(column + n * 8 + q * 2 + side, chunk * kChunk));
#pragma unroll
          for (int m = 0; m < S::kTilesDown; ++m) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
              float& sum = sums.at[m][n][half * 2 + side];
              sum = fmaf(a[m][half].x, b.x, sum);
              sum = fmaf(a[m][half].y, b.y, sum);
              sum = fmaf(a[m][half].z, b.z, sum);
              sum = fmaf(a[m][half].w, b.w, sum);
            }
          }
        }
      }
    }
  }
}

}  // namespace asl::cuda::pointwise
