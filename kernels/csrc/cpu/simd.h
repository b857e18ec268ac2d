// The compiler's float vectors for the instruction set that a file is built for. Only for files built once per set:
// everything here is inlined or in an anonymous namespace.
#pragma once

#include "tiles.h"
#include "vector_size.h"

#define ASL_JOIN_(a, b) a##b
#define ASL_JOIN(a, b) ASL_JOIN_(a, b)

namespace asl {
namespace {

#include "simd.inc"

typedef Simd<float>::vec vec;
typedef Simd<float>::mask ints;
typedef float vec_in_memory __attribute__((vector_size(ASL_VECTOR_BYTES), aligned(4), may_alias));
constexpr int kLanes = Simd<float>::lanes;
constexpr int kParts = kBlock / kLanes;  // vectors in a block of sixteen

}  // namespace
}  // namespace asl
