#include "slope_plane_tiles.cuh"
#include "slope_planes.cuh"

namespace asl::cuda {

const char* slope_planes_bfloat16(const SlopeSums& given, const Cut& cut, int v, void* stream) {
  return slope_planes_typed<__nv_bfloat16>(given, cut, v, stream);
}
const char* slope_planes_bfloat16(const SlopeSums& given, const PlaneTiles& tiles, int64_t batch, void* stream) {
  return slope_planes_tiled<__nv_bfloat16>(given, tiles, batch, stream);
}

}  // namespace asl::cuda
