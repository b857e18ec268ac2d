// Element types: the type that sums run in, conversions, and vectors of 32-bit (or 64-bit) words.
#pragma once

#include "ptx.cuh"

namespace asl::cuda {

template <typename T>
struct Compute {
  using type = float;
};
template <>
struct Compute<double> {
  using type = double;
};
template <typename T>
using compute_t = typename Compute<T>::type;

__device__ __forceinline__ float widened(float value) { return value; }
__device__ __forceinline__ double widened(double value) { return value; }
__device__ __forceinline__ float widened(__half value) { return __half2float(value); }
__device__ __forceinline__ float widened(__nv_bfloat16 value) { return __bfloat162float(value); }

template <typename T>
__device__ __forceinline__ T narrowed(compute_t<T> value) {
  if constexpr (sizeof(T) > 2) {
    return value;
  } else if constexpr (__is_same(T, __half)) {
    return __float2half_rn(value);
  } else {
    return __float2bfloat16_rn(value);
  }
}

template <typename A>
__device__ __forceinline__ A not_a_number() {
  return static_cast<A>(__uint_as_float(0x7fffffffu));
}

__device__ __forceinline__ int warp_min(int value) {
#ifdef ASL_EMULATE
  for (int step = 16; step > 0; step /= 2) value = min(value, __shfl_xor_sync(0xffffffffu, value, step));
  return value;
#else
  return __reduce_min_sync(0xffffffffu, value);
#endif
}
__device__ __forceinline__ int warp_max(int value) { return -warp_min(-value); }

// A factor for division by multiplication; divisors from 1 on (1 itself needs the case below).
__host__ __device__ __forceinline__ unsigned reciprocal(int divisor) { return 0xffffffffu / static_cast<unsigned>(divisor) + 1; }
// value / divisor, exact while value * divisor < 2^32.
__device__ __forceinline__ int divided(int value, unsigned reciprocal) {
  return reciprocal == 0 ? value : static_cast<int>(__umulhi(static_cast<unsigned>(value), reciprocal));
}

// The plain words of BYTES that one instruction loads or stores.
template <int BYTES>
struct Bits;
template <>
struct Bits<2> {
  using type = unsigned short;
};
template <>
struct Bits<4> {
  using type = unsigned;
};
template <>
struct Bits<8> {
  using type = uint2;
};
template <>
struct Bits<16> {
  using type = uint4;
};

// V elements that lie together in memory, aligned to their size.
template <typename T, int V>
struct alignas(sizeof(T) * V) Pack {
  T at[V];
};

template <typename T, int V>
__device__ __forceinline__ Pack<T, V> load_pack(const T* address) {
  using B = typename Bits<sizeof(T) * V>::type;
  union Both {
    B bits;
    Pack<T, V> pack;
    __device__ Both() {}
  } both;
  both.bits = __ldg(reinterpret_cast<const B*>(address));
  return both.pack;
}

template <typename T, int V>
__device__ __forceinline__ void store_pack(T* address, const compute_t<T> (&values)[V]) {
  using B = typename Bits<sizeof(T) * V>::type;
  union Both {
    B bits;
    Pack<T, V> pack;
    __device__ Both() {}
  } both;
#pragma unroll
  for (int i = 0; i < V; ++i) both.pack.at[i] = narrowed<T>(values[i]);
  *reinterpret_cast<B*>(address) = both.bits;
}

}  // namespace asl::cuda
