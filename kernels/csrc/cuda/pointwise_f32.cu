// The fused kernel for float32, with exact products or, where the caller allows it, on tensor cores.
#include "pointwise_kernel.cuh"

using namespace asl::cuda;

extern "C" const char* asl_pointwise_float32(const PointwiseProblem* problem, const Device* device, int tf32,
                                             void* stream) {
  return tf32 != 0 ? pointwise::run<pointwise::Tf32>(*problem, *device, Real::float32, stream)
                   : pointwise::run<pointwise::Float32>(*problem, *device, Real::float32, stream);
}
