#include "slope_planes.cuh"

namespace asl::cuda {

const char* slope_planes_bfloat16(const SlopeSums& given, const Cut& cut, int v, void* stream) {
  return slope_planes_typed<__nv_bfloat16>(given, cut, v, stream);
}

}  // namespace asl::cuda
