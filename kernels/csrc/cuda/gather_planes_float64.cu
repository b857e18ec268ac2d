#include "gather_planes.cuh"
#include "gather_planes_tiles.cuh"

namespace asl::cuda {

const char* gather_planes_float64(const Gather& gather, int64_t batch, void* stream) {
  const char* error = nullptr;
  if (gather_planes_tiled<double>(gather, batch, kFloat64, stream, &error)) return error;
  return gather_planes_typed<double>(gather, batch, stream);
}

}  // namespace asl::cuda
