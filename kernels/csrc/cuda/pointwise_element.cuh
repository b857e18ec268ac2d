// How the tile kernel reads, rounds and multiplies each type: a 128-byte line of shared memory is a slab of rows.
#pragma once

#include "ptx.cuh"

namespace asl::cuda::pointwise {

constexpr int kLine = 128;  // bytes of one pixel's, or one output channel's, slab
constexpr int kChunk = 16;  // bytes that move together; chunk c of line i lies at c ^ (i % 8): no bank is hit twice

// Tensor-core products of 16-bit types: 64 rows a slab, two to a lane.
template <typename Convert>
struct HalfWidth : Convert {
  using Stored = uint16_t;
  static constexpr int kBytes = 2, kLaneRows = 2;
  static constexpr bool kTensor = true;
  static __device__ __forceinline__ uint32_t word(const float (&value)[2]) {
    return Convert::pack(value[0], value[1]);
  }
  static __device__ __forceinline__ uint32_t operand(uint32_t word) { return word; }
  // The same words in global memory.
  static __device__ __forceinline__ uint32_t narrow(const float (&value)[2]) { return word(value); }
  static __device__ __forceinline__ void widen(uint32_t word, float (&value)[2]) {
    value[0] = Convert::widen(static_cast<uint16_t>(word));
    value[1] = Convert::widen(static_cast<uint16_t>(word >> 16));
  }
  using Convert::widen;
};

struct ConvertBfloat16 {
  static __device__ __forceinline__ float widen(uint16_t bits) { return __uint_as_float(uint32_t{bits} << 16); }
  static __device__ __forceinline__ uint32_t pack(float low, float high) {
#ifdef ASL_EMULATE
    return __float2bfloat16_rn(low).bits | static_cast<uint32_t>(__float2bfloat16_rn(high).bits) << 16;
#else
    const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&both);
#endif
  }
  static __device__ __forceinline__ void multiply(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    mma_bf16(c, a, b);
  }
};

struct ConvertFloat16 {
  static __device__ __forceinline__ float widen(uint16_t bits) {
#ifdef ASL_EMULATE
    return __half2float(__half{bits});
#else
    return __half2float(__ushort_as_half(bits));
#endif
  }
  static __device__ __forceinline__ uint32_t pack(float low, float high) {
#ifdef ASL_EMULATE
    return __float2half_rn(low).bits | static_cast<uint32_t>(__float2half_rn(high).bits) << 16;
#else
    const __half2 both = __floats2half2_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&both);
#endif
  }
  static __device__ __forceinline__ void multiply(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    mma_f16(c, a, b);
  }
};

using Bfloat16 = HalfWidth<ConvertBfloat16>;
using Float16 = HalfWidth<ConvertFloat16>;

// 32 rows a slab, one to a lane.
struct FullWidth {
  using Stored = float;
  static constexpr int kBytes = 4, kLaneRows = 1;
  static __device__ __forceinline__ float widen(float value) { return value; }
  static __device__ __forceinline__ uint32_t narrow(const float (&value)[1]) { return __float_as_uint(value[0]); }
  static __device__ __forceinline__ void widen(uint32_t word, float (&value)[1]) { value[0] = __uint_as_float(word); }
};

struct Tf32 : FullWidth {
  static constexpr bool kTensor = true;
  static __device__ __forceinline__ uint32_t word(const float (&value)[1]) { return to_tf32(value[0]); }
  // The weights reach shared memory unrounded.
  static __device__ __forceinline__ uint32_t operand(uint32_t word) { return to_tf32(__uint_as_float(word)); }
  static __device__ __forceinline__ void multiply(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    mma_tf32(c, a, b);
  }
};

struct Float32 : FullWidth {
  static constexpr bool kTensor = false;
  static __device__ __forceinline__ uint32_t word(const float (&value)[1]) { return __float_as_uint(value[0]); }
};

constexpr int kSlotGroup = 32;  // input pixels whose places a warp works out at once

// Rows of a slab, and elements of a chunk.
template <typename E>
constexpr int kSlab = kLine / E::kBytes;
template <typename E>
constexpr int kPerChunk = kChunk / E::kBytes;

// Byte offset of a byte of a line in a tile whose chunks are swizzled.
__device__ __forceinline__ int swizzled(int line, int byte) { return line * kLine + (byte ^ (line & 7) << 4); }

}  // namespace asl::cuda::pointwise
