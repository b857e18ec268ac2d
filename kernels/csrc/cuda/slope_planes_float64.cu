#include "slope_planes.cuh"

namespace asl::cuda {

const char* slope_planes_float64(const SlopeSums& given, const Cut& cut, int v, void* stream) {
  return slope_planes_typed<double>(given, cut, v, stream);
}

}  // namespace asl::cuda
