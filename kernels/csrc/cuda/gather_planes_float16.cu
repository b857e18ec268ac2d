#include "gather_planes.cuh"

namespace asl::cuda {

const char* gather_planes_float16(const Gather& gather, int64_t batch, void* stream) {
  return gather_planes_typed<__half>(gather, batch, stream);
}

}  // namespace asl::cuda
