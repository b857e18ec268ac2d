#include "slope_planes.cuh"

namespace asl::cuda {

const char* slope_planes_float16(const SlopeSums& given, const Cut& cut, int v, void* stream) {
  return slope_planes_typed<__half>(given, cut, v, stream);
}

}  // namespace asl::cuda
