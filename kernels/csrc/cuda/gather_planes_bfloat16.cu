#include "gather_planes.cuh"
#include "gather_planes_tiles.cuh"

namespace asl::cuda {

const char* gather_planes_bfloat16(const Gather& gather, int64_t batch, void* stream) {
  const char* error = nullptr;
  if (gather_planes_tiled<__nv_bfloat16>(gather, batch, kBFloat16, stream, &error)) return error;
  return gather_planes_typed<__nv_bfloat16>(gather, batch, stream);
}

}  // namespace asl::cuda
