// CUDA's vocabulary for g++: kernels run on the CPU, the threads of a block as fibers in a seeded random order.
//
// Every memory access of a kernel is watched (emulate.cpp): bounds, alignment, and races between barriers.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static
#define __constant__ static const
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

#define ASL_EMULATE_VECTORS(type, name, bytes)                                                            \
  struct alignas(2 * bytes) name##2 { type x, y; };                                                       \
  struct alignas(4 * bytes < 16 ? 4 * bytes : 16) name##4 { type x, y, z, w; };                           \
  inline name##2 make_##name##2(type x, type y) { return {x, y}; }                                        \
  inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
ASL_EMULATE_VECTORS(float, float, 4)
ASL_EMULATE_VECTORS(int, int, 4)
ASL_EMULATE_VECTORS(unsigned, uint, 4)
ASL_EMULATE_VECTORS(unsigned short, ushort, 2)
ASL_EMULATE_VECTORS(double, double, 8)
#undef ASL_EMULATE_VECTORS

struct alignas(2) __half {
  uint16_t bits;
};
struct alignas(2) __nv_bfloat16 {
  uint16_t bits;
};

inline float __half2float(__half value) {
  _Float16 real;
  std::memcpy(&real, &value, 2);
  return static_cast<float>(real);
}
inline __half __float2half_rn(float value) {
  const _Float16 real = static_cast<_Float16>(value);
  __half result;
  std::memcpy(&result, &real, 2);
  return result;
}
inline float __bfloat162float(__nv_bfloat16 value) {
  const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
  float result;
  std::memcpy(&result, &bits, 4);
  return result;
}
inline __nv_bfloat16 __float2bfloat16_rn(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if (value != value) return {0x7fff};
  return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

namespace emulate {

uint3 thread_index();
uint3 block_index();
dim3 block_size();
dim3 grid_size();
void barrier();
void warp_barrier(uint32_t mask);
char* dynamic_shared();
int lane();

// What every lane of the mask handed in; valid until this lane's next collective.
struct Words {
  uint32_t word[8];
};
const Words* exchange(uint32_t mask, const Words& mine);
Words word_of(uint32_t mask, const Words& mine, int from);
uint32_t ballot(uint32_t mask, bool predicate);

// cp.async: nothing is visible in shared memory before the wait; `filled` bytes come from global memory, the rest is 0.
void copy_async(void* shared, const void* global, int bytes, int filled);
void copy_commit();
void copy_wait(int groups_left);

// Sixteen-bit operands as bfloat16 or half; `a` 4 words, `b` 2 words, `c` 4 floats, in the layouts of the PTX manual.
void mma_16816(float* c, const uint32_t* a, const uint32_t* b, bool bfloat16);
void mma_1688_tf32(float* c, const uint32_t* a, const uint32_t* b);
// `count` 8x8 matrices of 16-bit elements; lane i holds the address of row i % 8 of matrix i / 8.
void ldmatrix(uint32_t* result, const void* row, int count, bool transposed);

// Runs every block in random order; null, or what went wrong first.
const char* run(dim3 grid, dim3 block, size_t shared_bytes, void (*kernel)(const void*), const void* arguments);

template <typename F>
const char* run(dim3 grid, dim3 block, size_t shared_bytes, const F& kernel) {
  return run(grid, block, shared_bytes, [](const void* f) { (*static_cast<const F*>(f))(); }, &kernel);
}

template <typename T>
T shuffle(uint32_t mask, T value, int from, bool keep) {
  static_assert(sizeof(T) <= 8);
  Words mine{};
  std::memcpy(mine.word, &value, sizeof(T));
  const Words other = word_of(mask, mine, keep ? lane() : from);
  std::memcpy(&value, other.word, sizeof(T));
  return value;
}

inline bool outside(int lane, int from, int width) { return lane / width != from / width || from < 0; }

}  // namespace emulate

#define threadIdx (::emulate::thread_index())
#define blockIdx (::emulate::block_index())
#define blockDim (::emulate::block_size())
#define gridDim (::emulate::grid_size())
constexpr int warpSize = 32;

inline void __syncthreads() { emulate::barrier(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) { emulate::warp_barrier(mask); }

template <typename T>
T __shfl_sync(unsigned mask, T value, int from, int width = 32) {
  return emulate::shuffle(mask, value, emulate::lane() / width * width + (from & (width - 1)), false);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int flip, int width = 32) {
  const int lane = emulate::lane(), from = lane ^ flip;
  return emulate::shuffle(mask, value, from, emulate::outside(lane, from, width));
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, int step, int width = 32) {
  const int lane = emulate::lane(), from = lane + step;
  return emulate::shuffle(mask, value, from, emulate::outside(lane, from, width));
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, int step, int width = 32) {
  const int lane = emulate::lane(), from = lane - step;
  return emulate::shuffle(mask, value, from, emulate::outside(lane, from, width));
}
inline unsigned __ballot_sync(unsigned mask, int predicate) { return emulate::ballot(mask, predicate != 0); }
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == mask; }

template <typename T>
T __ldg(const T* address) {
  return *address;
}
template <typename T>
T __ldcs(const T* address) {
  return *address;
}
template <typename T>
void __stcs(T* address, T value) {
  *address = value;
}

inline int __popc(unsigned value) { return __builtin_popcount(value); }
inline int __clz(int value) { return value == 0 ? 32 : __builtin_clz(static_cast<unsigned>(value)); }
inline int __ffs(int value) { return __builtin_ffs(value); }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(uint64_t{a} * b >> 32); }
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned by) {
  return static_cast<unsigned>((static_cast<uint64_t>(high) << 32 | low) >> (by & 31));
}
inline float __uint_as_float(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
inline unsigned __float_as_uint(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}
template <typename T>
constexpr std::enable_if_t<std::is_arithmetic_v<T>, T> min(T a, T b) {
  return b < a ? b : a;
}
template <typename T>
constexpr std::enable_if_t<std::is_arithmetic_v<T>, T> max(T a, T b) {
  return a < b ? b : a;
}
