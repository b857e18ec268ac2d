#include "gather_pixels.cuh"
#include "gather_tiles.cuh"

namespace asl::cuda {

const char* gather_pixels(const Gather& gather, int64_t batch, int type, void* stream) {
  PixelTiles tiles;
  const PixelImages images{gather.in,         gather.out,     gather.in_planes,
                           gather.out_planes, gather.in_size, gather.out_size};
  // A channel that sums over listed rows reads far more than a tile.
  if (gather.readers == nullptr && plan_pixel_tiles(gather.problem, images, batch, type, &tiles)) {
    return type == kFloat32    ? gather_tiles<float>(gather, tiles, stream)
           : type == kBFloat16 ? gather_tiles<__nv_bfloat16>(gather, tiles, stream)
                               : gather_tiles<__half>(gather, tiles, stream);
  }
  switch (type) {
    case kFloat32:
      return gather_pixels_typed<float>(gather, batch, stream);
    case kFloat64:
      return gather_pixels_typed<double>(gather, batch, stream);
    case kBFloat16:
      return gather_pixels_typed<__nv_bfloat16>(gather, batch, stream);
    default:
      return gather_pixels_typed<__half>(gather, batch, stream);
  }
}

}  // namespace asl::cuda
