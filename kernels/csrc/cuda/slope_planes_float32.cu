#include "slope_plane_tiles.cuh"
#include "slope_planes.cuh"

namespace asl::cuda {

const char* slope_planes_float32(const SlopeSums& given, const Cut& cut, int v, void* stream) {
  return slope_planes_typed<float>(given, cut, v, stream);
}
const char* slope_planes_float32(const SlopeSums& given, const PlaneTiles& tiles, int64_t batch, void* stream) {
  return slope_planes_tiled<float>(given, tiles, batch, stream);
}

}  // namespace asl::cuda
