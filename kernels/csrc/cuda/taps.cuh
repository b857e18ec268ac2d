// What a thread knows about a row of the op: the channel it reads, its whole pixels and its weights.
#pragma once

#include "launchers.h"
#include "numeric.cuh"

namespace asl::cuda {

// Sizes in 32 bits, as the kernels want them; pointers and plane offsets stay in 64 bits.
struct Problem {
  int channels, rows, dims, shift_type;
  int size[3], out[3], stride[3];
  int64_t shift_step[2], source_step;
  const void* shift;
  const int64_t* source;

  __device__ __forceinline__ int64_t pixels() const { return static_cast<int64_t>(size[0]) * size[1] * size[2]; }
  __device__ __forceinline__ int64_t out_pixels() const { return static_cast<int64_t>(out[0]) * out[1] * out[2]; }
};

// Per axis the tap at `base` with weight near and, where far is not 0, the one after it. near is never 0.
template <typename A>
struct Taps {
  int base[3];
  A near[3], far[3];

  // With `negated`, the taps of the adjoint at stride 1: the same weights at the negated offsets.
  __device__ __forceinline__ void set(int axis, int whole_pixels, A fraction, bool negated) {
    const bool whole = fraction == A(0);
    const A rest = A(1) - fraction;
    base[axis] = negated ? -whole_pixels - (whole ? 0 : 1) : whole_pixels;
    near[axis] = negated && !whole ? fraction : rest;
    far[axis] = negated && !whole ? rest : fraction;
  }
};

// Beyond any image, so that clamping changes no result; sums with a position stay within 32 bits.
constexpr double kFar = 1e9;

// As the reference rounds: the split runs in shift's own precision. False where the value is not finite.
template <typename S, typename A>
__device__ __forceinline__ bool split(S given, int& base, A& fraction) {
  const S value = given > S(kFar) ? S(kFar) : given >= S(-kFar) ? given : S(-kFar);
  const S whole = floor(value);
  base = static_cast<int>(whole);
  fraction = static_cast<A>(value - whole);
  if (fraction >= A(1)) {
    ++base;
    fraction = A(0);
  }
  return given - given == S(0);
}

// The source channel of row k, or -1 where the row is not usable; then the taps are not set.
template <typename A>
__device__ __forceinline__ int read_row(const Problem& problem, int k, int (&base)[3], A (&fraction)[3]) {
  int64_t channel = problem.source == nullptr ? k : __ldg(problem.source + k * problem.source_step);
  if (channel < 0 || channel >= problem.channels) channel = -1;
#pragma unroll
  for (int axis = 0; axis < 3; ++axis) {
    base[axis] = 0;
    fraction[axis] = A(0);
    const int d = axis - (3 - problem.dims);
    if (d < 0) continue;
    const int64_t at = k * problem.shift_step[0] + d * problem.shift_step[1];
    bool finite;
    if (problem.shift_type == kFloat64) {
      finite = split(__ldg(static_cast<const double*>(problem.shift) + at), base[axis], fraction[axis]);
    } else {
      float value;
      if (problem.shift_type == kFloat32) {
        value = __ldg(static_cast<const float*>(problem.shift) + at);
      } else if (problem.shift_type == kBFloat16) {
        value = widened(static_cast<const __nv_bfloat16*>(problem.shift)[at]);
      } else {
        value = widened(static_cast<const __half*>(problem.shift)[at]);
      }
      finite = split(value, base[axis], fraction[axis]);
    }
    if (!finite) channel = -1;
  }
  return static_cast<int>(channel);
}

// The same for two axes, (y, x), in fewer steps where shifts are float32.
template <typename A>
__device__ __forceinline__ int read_plane_row(const Problem& problem, int k, int (&base)[2], A (&fraction)[2]) {
  if (problem.shift_type != kFloat32) {
    int all[3];
    A fractions[3];
    const int channel = read_row(problem, k, all, fractions);
    base[0] = all[1];
    base[1] = all[2];
    fraction[0] = fractions[1];
    fraction[1] = fractions[2];
    return channel;
  }
  const float* shift = static_cast<const float*>(problem.shift) + k * problem.shift_step[0];
  const float y = __ldg(shift), x = __ldg(shift + problem.shift_step[1]);
  int64_t channel = problem.source == nullptr ? k : __ldg(problem.source + k * problem.source_step);
  if (channel < 0 || channel >= problem.channels) channel = -1;
  const bool finite_y = split(y, base[0], fraction[0]), finite_x = split(x, base[1], fraction[1]);
  return finite_y && finite_x ? static_cast<int>(channel) : -1;
}

template <typename A>
__device__ __forceinline__ int read_taps(const Problem& problem, int k, bool negated, Taps<A>& taps) {
  int base[3];
  A fraction[3];
  const int channel = read_row(problem, k, base, fraction);
#pragma unroll
  for (int axis = 0; axis < 3; ++axis) taps.set(axis, base[axis], fraction[axis], negated);
  return channel;
}

// Three taps from `base` on with the weights of the sample and of its derivative. At a whole pixel the derivative is
// the central difference, and the taps start one pixel earlier.
template <typename A>
struct Slopes {
  int base[3];
  A sample[3][3], slope[3][3];
};

template <typename A>
__device__ __forceinline__ int read_slopes(const Problem& problem, int k, Slopes<A>& slopes) {
  int base[3];
  A fraction[3];
  const int channel = read_row(problem, k, base, fraction);
#pragma unroll
  for (int axis = 0; axis < 3; ++axis) {
    const A f = fraction[axis];
    const bool whole = f == A(0);
    slopes.base[axis] = base[axis] - (whole ? 1 : 0);
    slopes.sample[axis][0] = whole ? A(0) : A(1) - f;
    slopes.sample[axis][1] = whole ? A(1) : f;
    slopes.sample[axis][2] = A(0);
    slopes.slope[axis][0] = whole ? A(-0.5) : A(-1);
    slopes.slope[axis][1] = whole ? A(0) : A(1);
    slopes.slope[axis][2] = whole ? A(0.5) : A(0);
    if (axis < 3 - problem.dims) slopes.slope[axis][0] = slopes.slope[axis][2] = A(0);
  }
  return channel;
}

// values[t] with registers for values.
template <typename A>
__device__ __forceinline__ A entry_of(const A (&values)[3], int t) {
  return t == 0 ? values[0] : t == 1 ? values[1] : values[2];
}

__device__ __forceinline__ bool within(int at, int size) {
  return static_cast<unsigned>(at) < static_cast<unsigned>(size);
}

}  // namespace asl::cuda
