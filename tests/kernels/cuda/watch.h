// The shadow of memory: who touched which byte last, between which barriers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace emulate {

// A thread at one moment of a launch.
struct Access {
  uint32_t launch, block, thread, barriers, warp_barriers;
};

// The running thread, or null on the host.
const Access* self();
bool on_own_stack(const void* address);
// Ends the launch with this message.
[[noreturn]] void fail(const std::string& message);

void watch_read(const void* address, size_t bytes, const void* caller);
// Shared memory that a cp.async will write (arrived = false) or has written.
void watch_copy(void* address, size_t bytes, bool arrived, const void* caller);
// Called before a launch; the host's stack above `host_frame` holds the kernel's arguments.
void watch_shared(void* address, size_t bytes, const void* host_frame);
void seed(uint64_t value);

}  // namespace emulate
