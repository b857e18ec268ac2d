// Sums of gradient times pixel for each tap of a row, and what they are in its slopes.
#pragma once

#include "numeric.cuh"

namespace asl::cuda {

// at[ty][tx]; the third taps are for whole offsets, whose slope is the central difference.
template <typename A>
struct TapSums {
  A at[3][3] = {};
};

// Bytes of the two slopes that a thread leaves in shared memory.
template <typename T>
constexpr int slope_bytes() {
  return 2 * sizeof(compute_t<T>);
}

// The slopes along y and x, of the fractions of a pixel. A weight of 0 must not turn another tap's NaN into its own.
template <typename A>
__device__ __forceinline__ void weigh(const TapSums<A>& sums, A below, A right, A& along_y, A& along_x) {
  const auto weights = [](A fraction, A(&sample)[3], A(&slope)[3]) {
    const bool whole = fraction == A(0);
    sample[0] = whole ? A(0) : A(1) - fraction;
    sample[1] = whole ? A(1) : fraction;
    sample[2] = A(0);
    slope[0] = whole ? A(-0.5) : A(-1);
    slope[1] = whole ? A(0) : A(1);
    slope[2] = whole ? A(0.5) : A(0);
  };
  A sample_y[3], slope_y[3], sample_x[3], slope_x[3];
  weights(below, sample_y, slope_y);
  weights(right, sample_x, slope_x);
  along_y = along_x = A(0);
#pragma unroll
  for (int tap = 0; tap < 9; ++tap) {
    const A y = slope_y[tap / 3] * sample_x[tap % 3], x = sample_y[tap / 3] * slope_x[tap % 3];
    if (y != A(0)) along_y += y * sums.at[tap / 3][tap % 3];
    if (x != A(0)) along_x += x * sums.at[tap / 3][tap % 3];
  }
}

}  // namespace asl::cuda
