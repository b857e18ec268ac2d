#include "gather_planes.cuh"
#include "gather_planes_tiles.cuh"

namespace asl::cuda {

const char* gather_planes_float16(const Gather& gather, int64_t batch, void* stream) {
  const char* error = nullptr;
  if (gather_planes_tiled<__half>(gather, batch, kFloat16, stream, &error)) return error;
  return gather_planes_typed<__half>(gather, batch, stream);
}

}  // namespace asl::cuda
