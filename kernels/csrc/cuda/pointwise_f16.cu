// The fused kernel for half precision.
#include "pointwise_kernel.cuh"

using namespace asl::cuda;

extern "C" const char* asl_pointwise_float16(const PointwiseProblem* problem, const Device* device, void* stream) {
  return pointwise::run<pointwise::Float16>(*problem, *device, Real::float16, stream);
}
