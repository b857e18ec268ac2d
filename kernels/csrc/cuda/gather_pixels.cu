#include "gather_pixels.cuh"

namespace asl::cuda {

const char* gather_pixels(const Gather& gather, int64_t batch, int type, void* stream) {
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
