// The compiler's float vectors for the instruction set that a file is built for. Only for files built once per set:
// everything here is inlined or in an anonymous namespace.
#pragma once

#if defined(__AVX512F__)
#include <immintrin.h>
#define ASL_VECTOR_BYTES 64
#elif defined(__AVX2__)
#include <immintrin.h>
#define ASL_VECTOR_BYTES 32
#else
#define ASL_VECTOR_BYTES 16
#endif

#include "tiles.h"

#define ASL_INLINE inline __attribute__((always_inline))
#define ASL_JOIN_(a, b) a##b
#define ASL_JOIN(a, b) ASL_JOIN_(a, b)

namespace asl {
namespace {

typedef float vec __attribute__((vector_size(ASL_VECTOR_BYTES)));
typedef float vec_in_memory __attribute__((vector_size(ASL_VECTOR_BYTES), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(ASL_VECTOR_BYTES)));
constexpr int kLanes = ASL_VECTOR_BYTES / 4;
constexpr int kParts = 16 / kLanes;  // vectors in a block of sixteen

ASL_INLINE vec load(const float* src) { return *reinterpret_cast<const vec_in_memory*>(src); }
ASL_INLINE void save(float* dst, vec value) { *reinterpret_cast<vec_in_memory*>(dst) = value; }

}  // namespace
}  // namespace asl
