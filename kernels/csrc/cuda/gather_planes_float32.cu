#include "gather_planes.cuh"

namespace asl::cuda {

const char* gather_planes_float32(const Gather& gather, int64_t batch, void* stream) {
  return gather_planes_typed<float>(gather, batch, stream);
}

}  // namespace asl::cuda
