// The device and stream that a CUDA op runs on, and what its launchers report.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/tensor.h>

namespace asl::cuda {

using torch::stable::Tensor;

// Makes the tensor's device the current one as long as this object lives, for torch and for the kernels.
class Context {
 public:
  explicit Context(const Tensor& x);
  // Torch's current stream on that device, a cudaStream_t.
  void* stream() const { return stream_; }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  void* stream_ = nullptr;
};

// Throws std::runtime_error where a launcher returned a message.
void check_started(const char* op, const char* message);

}  // namespace asl::cuda
