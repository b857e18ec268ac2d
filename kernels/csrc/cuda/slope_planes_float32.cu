#include "slope_planes.cuh"

namespace asl::cuda {

const char* slope_planes_float32(const SlopeSums& given, const Cut& cut, int v, void* stream) {
  return slope_planes_typed<float>(given, cut, v, stream);
}

}  // namespace asl::cuda
