// Calls a function template with the C++ type of a tensor's elements.
#pragma once

#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include "plane.h"

namespace asl {

template <typename F>
void for_type(torch::headeronly::ScalarType type, const F& call) {
  using torch::headeronly::ScalarType;
  switch (type) {
    case ScalarType::Float:
      return call(float{});
    case ScalarType::Double:
      return call(double{});
    case ScalarType::BFloat16:
      return call(BFloat16{});
    default:
      STD_TORCH_CHECK(false, "active shift: unsupported type");
  }
}

// An element in the type in which sums run.
inline float widened(BFloat16 value) {
  const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
  float result;
  __builtin_memcpy(&result, &bits, sizeof(result));
  return result;
}
inline float widened(float value) { return value; }
inline double widened(double value) { return value; }

// Fewer elements than this are not worth another thread.
constexpr int64_t kElementsPerThread = 16384;

inline int64_t grain(int64_t elements_per_item) {
  return elements_per_item >= kElementsPerThread ? 1 : kElementsPerThread / (elements_per_item + 1) + 1;
}

// Pixels that are worked on together, so that they stay in the first-level cache.
constexpr int64_t kChunk = 2048;

}  // namespace asl
