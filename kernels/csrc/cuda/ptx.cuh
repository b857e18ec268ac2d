// The instructions that CUDA C++ has no name for; with ASL_EMULATE the test emulator takes their place.
#pragma once

#ifdef ASL_EMULATE
#include "emulate.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#endif

#include <cstdint>

// Dynamic shared memory as `type* name`, aligned to 16 bytes.
#ifdef ASL_EMULATE
#define ASL_DYNAMIC_SHARED(type, name) type* name = reinterpret_cast<type*>(::emulate::dynamic_shared())
#else
#define ASL_DYNAMIC_SHARED(type, name)                              \
  extern __shared__ __align__(16) unsigned char asl_dynamic_shared[]; \
  type* name = reinterpret_cast<type*>(asl_dynamic_shared)
#endif

namespace asl::cuda {

#ifndef ASL_EMULATE
__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}
#endif

// Starts a copy of BYTES (4, 8 or 16) from global to shared memory; where not valid, global memory is not read and the
// destination becomes 0. Both addresses must be multiples of BYTES.
template <int BYTES>
__device__ __forceinline__ void cp_async(void* shared, const void* global, bool valid) {
  static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16);
#ifdef ASL_EMULATE
  emulate::copy_async(shared, global, BYTES, valid ? BYTES : 0);
#else
  const uint32_t to = shared_address(shared);
  const int filled = valid ? BYTES : 0;
  // .cg keeps streamed data out of the first-level cache; it exists for 16 bytes only.
  if constexpr (BYTES == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(filled) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(global), "n"(BYTES), "r"(filled)
                 : "memory");
  }
#endif
}

__device__ __forceinline__ void cp_async_commit() {
#ifdef ASL_EMULATE
  emulate::copy_commit();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most GROUPS_LEFT of this thread's groups are under way. Other threads see the data after a barrier.
template <int GROUPS_LEFT>
__device__ __forceinline__ void cp_async_wait() {
#ifdef ASL_EMULATE
  emulate::copy_wait(GROUPS_LEFT);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(GROUPS_LEFT) : "memory");
#endif
}

// One 16-byte store to global memory; the compiler tends to split an assignment into words.
__device__ __forceinline__ void store_16(void* global, uint4 value) {
#ifdef ASL_EMULATE
  *static_cast<uint4*>(global) = value;
#else
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(global), "r"(value.x), "r"(value.y), "r"(value.z),
               "r"(value.w)
               : "memory");
#endif
}

// Four 8x8 matrices of 16-bit elements; lane i points at row i % 8 (16 bytes, aligned) of matrix i / 8.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&result)[4], const void* row) {
#ifdef ASL_EMULATE
  emulate::ldmatrix(result, row, 4, false);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(result[0]), "=r"(result[1]), "=r"(result[2]), "=r"(result[3])
               : "r"(shared_address(row))
               : "memory");
#endif
}

__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&result)[4], const void* row) {
#ifdef ASL_EMULATE
  emulate::ldmatrix(result, row, 4, true);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(result[0]), "=r"(result[1]), "=r"(result[2]), "=r"(result[3])
               : "r"(shared_address(row))
               : "memory");
#endif
}

__device__ __forceinline__ void ldmatrix_x2(uint32_t (&result)[2], const void* row) {
#ifdef ASL_EMULATE
  emulate::ldmatrix(result, row, 2, false);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(result[0]), "=r"(result[1])
               : "r"(shared_address(row))
               : "memory");
#endif
}

__device__ __forceinline__ void ldmatrix_x2_trans(uint32_t (&result)[2], const void* row) {
#ifdef ASL_EMULATE
  emulate::ldmatrix(result, row, 2, true);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(result[0]), "=r"(result[1])
               : "r"(shared_address(row))
               : "memory");
#endif
}

// c[16, 8] += a[16, 16] . b[16, 8], bfloat16 operands, float32 sums.
__device__ __forceinline__ void mma_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef ASL_EMULATE
  emulate::mma_16816(c, a, b, true);
#else
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// The same for half operands.
__device__ __forceinline__ void mma_f16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef ASL_EMULATE
  emulate::mma_16816(c, a, b, false);
#else
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// c[16, 8] += a[16, 8] . b[8, 8], operands as tf32 bits (see to_tf32), float32 sums.
__device__ __forceinline__ void mma_tf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef ASL_EMULATE
  emulate::mma_1688_tf32(c, a, b);
#else
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// Rounds to tf32 (to nearest, ties away); the tensor core would cut the low bits off instead.
__device__ __forceinline__ uint32_t to_tf32(float value) {
#ifdef ASL_EMULATE
  const uint32_t bits = __float_as_uint(value);
  return std::isfinite(value) ? (bits + 0x1000u) & ~0x1fffu : bits;
#else
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return bits;
#endif
}

}  // namespace asl::cuda
