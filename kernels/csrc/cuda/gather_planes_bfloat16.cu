#include "gather_planes.cuh"

namespace asl::cuda {

const char* gather_planes_bfloat16(const Gather& gather, int64_t batch, void* stream) {
  return gather_planes_typed<__nv_bfloat16>(gather, batch, stream);
}

}  // namespace asl::cuda
