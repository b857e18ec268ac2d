// Keeps what was worked out from a layer's shifts for its next call: at inference they do not change.
#pragma once

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <vector>

#include "../problem.h"

namespace asl {

// The plan that make() builds from the shifts, the sources and the image's extent (and from nothing else), or an equal one from an
// earlier call on this thread. What is compared is the values, so that a tensor changed in place is never mistaken.
template <typename Plan, typename Make>
std::shared_ptr<const Plan> remembered(const Problem& problem, const Tensor& shift, const Make& make) {
  struct Slot {
    torch::headeronly::ScalarType type;
    int64_t rows;
    Extent extent;
    std::vector<char> values;
    int64_t channels;
    std::vector<int64_t> source;
    std::shared_ptr<const Plan> plan;
  };
  constexpr size_t kSlots = 64, kMostBytes = 512 * 1024;
  thread_local std::array<Slot, kSlots> slots;

  if (!shift.is_contiguous() || problem.rows == 0) return std::make_shared<const Plan>(make());
  const char* data = static_cast<const char*>(shift.data_ptr());
  const size_t bytes = static_cast<size_t>(shift.numel()) * shift.element_size();
  Slot& slot = slots[reinterpret_cast<uintptr_t>(data) / 64 * 0x9E3779B97F4A7C15ull >> 58];
  const auto same = [](const int64_t (&a)[3], const int64_t (&b)[3]) { return std::equal(a, a + 3, b); };
  if (slot.plan != nullptr && slot.type == shift.scalar_type() && slot.rows == problem.rows &&
      same(slot.extent.size, problem.extent.size) && same(slot.extent.out, problem.extent.out) &&
      same(slot.extent.stride, problem.extent.stride) &&
      slot.channels == problem.channels && slot.source == problem.source && slot.values.size() == bytes && std::memcmp(slot.values.data(), data, bytes) == 0) {
    return slot.plan;
  }
  auto plan = std::make_shared<const Plan>(make());
  if (plan->bytes() <= kMostBytes) {
    slot = {shift.scalar_type(), problem.rows, problem.extent, {data, data + bytes}, problem.channels, problem.source, plan};
  }
  return plan;
}

}  // namespace asl
