// The fused kernel for bfloat16.
#include "pointwise_kernel.cuh"

using namespace asl::cuda;

extern "C" const char* asl_pointwise_bfloat16(const PointwiseProblem* problem, const Device* device, void* stream) {
  return pointwise::run<pointwise::Bfloat16>(*problem, *device, Real::bfloat16, stream);
}
