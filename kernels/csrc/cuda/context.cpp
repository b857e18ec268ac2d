#include "context.h"

#include <dlfcn.h>

#include <torch/headeronly/util/Exception.h>

#include "launchers.h"

namespace asl::cuda {
namespace {

using CurrentStream = AOTITorchError (*)(int32_t device_index, void** stream);

// Only a torch that was built for CUDA has it, so it is looked up by name: the library loads without it.
CurrentStream find_current_stream() {
  constexpr const char* kName = "aoti_torch_get_current_cuda_stream";
  void* found = dlsym(RTLD_DEFAULT, kName);
  if (found == nullptr) {
    // Python loads torch's libraries without making their names known to all.
    void* torch_cuda = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    if (torch_cuda != nullptr) found = dlsym(torch_cuda, kName);
  }
  return reinterpret_cast<CurrentStream>(found);
}

}  // namespace

Context::Context(const Tensor& x) : guard_(x.get_device_index()) {
  static const CurrentStream current_stream = find_current_stream();
  STD_TORCH_CHECK(current_stream != nullptr, "active shift: this torch offers no current CUDA stream");
  STD_TORCH_CHECK(current_stream(x.get_device_index(), &stream_) == AOTI_TORCH_SUCCESS,
                  "active shift: torch gave no current CUDA stream");
  // The kernels have a CUDA runtime of their own, which must agree with torch's on the device.
  check_started("active shift", asl_cuda_use_device(x.get_device_index()));
}

void check_started(const char* op, const char* message) {
  STD_TORCH_CHECK(message == nullptr, op, ": the kernel did not start: ", message);
}

}  // namespace asl::cuda
