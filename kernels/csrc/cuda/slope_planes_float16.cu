#include "slope_plane_tiles.cuh"
#include "slope_planes.cuh"

namespace asl::cuda {

const char* slope_planes_float16(const SlopeSums& given, const Cut& cut, int v, void* stream) {
  return slope_planes_typed<__half>(given, cut, v, stream);
}
const char* slope_planes_float16(const SlopeSums& given, const PlaneTiles& tiles, int64_t batch, void* stream) {
  return slope_planes_tiled<__half>(given, tiles, batch, stream);
}

}  // namespace asl::cuda
