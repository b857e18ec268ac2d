// shift_pointwise on CUDA tensors: checks, dense layouts and one launch; nothing waits for the device.
// Packed weights take the composite fallback of kernels/ops.py, which unpacks them.
#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/core/MemoryFormat.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include "../ops.h"
#include "../problem.h"
#include "context.h"
#include "pointwise.h"

namespace asl::cuda {
namespace {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;

Real real_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return Real::float32;
    case ScalarType::Double:
      return Real::float64;
    case ScalarType::BFloat16:
      return Real::bfloat16;
    default:
      return Real::float16;
  }
}

// Torch's own switch (torch.backends.cuda.matmul.allow_tf32) cannot be read through the stable interface.
bool tf32_allowed() {
  const char* value = std::getenv("ASLCONVERT_TF32");
  return value != nullptr && *value != '\0' && std::strcmp(value, "0") != 0;
}

// Asked once for each device: a launch should not wait for the driver.
Device device_of(int32_t index) {
  constexpr size_t kMost = 64;
  static std::array<Device, kMost> known{};
  static std::mutex guard;
  const std::lock_guard<std::mutex> lock(guard);
  const size_t at = static_cast<size_t>(index);
  if (at < kMost && known[at].multiprocessors > 0) return known[at];
  Device device{};
  check_started("shift pointwise", asl_pointwise_device(index, &device));
  if (at < kMost) known[at] = device;
  return device;
}

// The image dense in the problem's format; itself where it is already.
Tensor dense(const asl::Problem& problem, const Tensor& image) {
  if (!problem.channels_last) return row_major(image);
  return torch::stable::contiguous(image,
                                   problem.dims == 2 ? MemoryFormat::ChannelsLast : MemoryFormat::ChannelsLast3d);
}

std::optional<Tensor> row_major(const std::optional<Tensor>& tensor) {
  return tensor.has_value() ? std::optional<Tensor>(asl::row_major(*tensor)) : std::nullopt;
}

const void* pointer(const std::optional<Tensor>& tensor) { return tensor.has_value() ? tensor->data_ptr() : nullptr; }

Tensor shift_pointwise(Tensor x, Tensor shift, std::optional<Tensor> source, Tensor weight, std::optional<Tensor> bias,
                       std::vector<int64_t> stride, std::vector<int64_t> delta, bool relu,
                       std::optional<Tensor> residual) {
  const asl::Problem checked = check(x, shift, source, stride, delta);
  check_pointwise(checked, x, weight, bias, residual);
  const Context context(x);
  const Tensor input = dense(checked, x), shifts = asl::row_major(shift), weights = asl::row_major(weight);
  const std::optional<Tensor> sources = row_major(source), biases = row_major(bias);
  std::optional<Tensor> added;
  if (residual.has_value()) added = dense(checked, *residual);
  Tensor y = empty_output(checked, x, weight.size(0), checked.channels_last);
  if (y.numel() == 0) return y;

  PointwiseProblem problem{};
  problem.x = input.data_ptr();
  problem.shift = shifts.data_ptr();
  problem.source = static_cast<const int64_t*>(pointer(sources));
  problem.weight = weights.data_ptr();
  problem.bias = pointer(biases);
  problem.residual = pointer(added);
  problem.out = y.data_ptr();
  problem.batch = checked.batch;
  problem.channels = checked.channels;
  problem.rows = checked.rows;
  problem.out_channels = weight.size(0);
  std::copy_n(checked.extent.size, 3, problem.size);
  std::copy_n(checked.extent.out, 3, problem.out_size);
  std::copy_n(checked.extent.stride, 3, problem.stride);
  problem.axes = checked.dims;
  problem.shift_type = real_of(shift);
  problem.channels_last = checked.channels_last;
  problem.relu = relu;
  const Device device = device_of(x.get_device_index());
  const auto start = [&]() -> const char* {
    switch (real_of(x)) {
      case Real::float32:
        return asl_pointwise_float32(&problem, &device, tf32_allowed() ? 1 : 0, context.stream());
      case Real::bfloat16:
        return asl_pointwise_bfloat16(&problem, &device, context.stream());
      case Real::float16:
        return asl_pointwise_float16(&problem, &device, context.stream());
      default:
        return asl_pointwise_any(&problem, Real::float64, context.stream());
    }
  };
  check_started("shift pointwise", start());
  return y;
}

}  // namespace
}  // namespace asl::cuda

STABLE_TORCH_LIBRARY_IMPL(asl, CUDA, m) { m.impl("shift_pointwise", TORCH_BOX(&asl::cuda::shift_pointwise)); }
