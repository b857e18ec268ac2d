// Registers schemas and CPU kernels with torch's dispatcher through the stable ABI.
#include "ops.h"

#include <string>

#include <torch/csrc/stable/library.h>

#include "cpu/loops.h"
#include "cpu/plane_tiles.h"
#ifdef ASL_CUDA_ARCHITECTURES
#include "cuda/launchers.h"
#endif

STABLE_TORCH_LIBRARY(asl, m) {
  m.def(asl::kActiveShiftSchema);
  m.def(asl::kActiveShiftBackwardSchema);
  m.def(asl::kShiftPointwiseSchema);
  m.def(asl::kPackPointwiseSchema);
  m.def(asl::kShiftPointwisePackedSchema);
  m.def(asl::kShiftPointwiseInt16Schema);
}

STABLE_TORCH_LIBRARY_IMPL(asl, CPU, m) {
  m.impl("active_shift", TORCH_BOX(&asl::active_shift));
  m.impl("active_shift_backward", TORCH_BOX(&asl::active_shift_backward));
  m.impl("shift_pointwise", TORCH_BOX(&asl::shift_pointwise));
  m.impl("shift_pointwise_packed", TORCH_BOX(&asl::shift_pointwise_packed));
  m.impl("shift_pointwise_int16", TORCH_BOX(&asl::shift_pointwise_int16));
}

#ifdef ASL_CUDA_ARCHITECTURES
static std::string cuda_info() {
  return std::string(";cuda=") + asl_cuda_version() + ";cuda_architectures=" + ASL_CUDA_ARCHITECTURES;
}
#else
static std::string cuda_info() { return ";cuda=none"; }
#endif

extern "C" __attribute__((visibility("default"))) const char* asl_build_info() {
  static const std::string text = std::string("isa=") + asl::isa_name() + ";compiler=" + ASL_COMPILER +
                                  ";int16=" + (asl::pair_tiles() != nullptr ? "vnni" : "none") +
                                  ";torch_target=" + ASL_TORCH_TARGET + cuda_info();
  return text.c_str();
}
