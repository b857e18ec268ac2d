// One way to start a kernel, for CUDA and for the test emulator.
#pragma once

#include "ptx.cuh"

namespace asl::cuda {

// The most blocks of a grid along y and z.
constexpr unsigned kMostBlocksY = 65535;

// Starts kernel<<<grid, block, shared_bytes, stream>>>(arguments...).
// Returns null, or why it could not be started (the emulator: what went wrong in it). An empty grid does nothing.
template <typename... P, typename... A>
const char* launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, void* stream, A... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return nullptr;
#ifdef ASL_EMULATE
  (void)stream;
  return emulate::run(grid, block, shared_bytes, [&] { kernel(static_cast<P>(arguments)...); });
#else
  constexpr size_t kAlwaysAllowed = 48 * 1024;
  if (shared_bytes > kAlwaysAllowed) {
    const cudaError_t refused = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                                     cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                     static_cast<int>(shared_bytes));
    if (refused != cudaSuccess) return cudaGetErrorString(refused);
  }
  kernel<<<grid, block, shared_bytes, static_cast<cudaStream_t>(stream)>>>(static_cast<P>(arguments)...);
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
#endif
}

}  // namespace asl::cuda
