// active_shift and its gradients on CUDA tensors: checks, workspaces and launches; nothing waits for the device.
#include <algorithm>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/core/MemoryFormat.h>
#include <torch/headeronly/core/ScalarType.h>

#include "../ops.h"
#include "../problem.h"
#include "context.h"
#include "launchers.h"

namespace asl::cuda {
namespace {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;

Type type_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return kFloat32;
    case ScalarType::Double:
      return kFloat64;
    case ScalarType::BFloat16:
      return kBFloat16;
    default:
      return kFloat16;
  }
}

Sizes sizes_of(const asl::Problem& problem, const Tensor& x, const Tensor& shift, const std::optional<Tensor>& source) {
  Sizes sizes{};
  sizes.batch = problem.batch;
  sizes.channels = problem.channels;
  sizes.rows = problem.rows;
  std::copy_n(problem.extent.size, 3, sizes.size);
  std::copy_n(problem.extent.out, 3, sizes.out);
  std::copy_n(problem.extent.stride, 3, sizes.stride);
  sizes.shift_step[0] = shift.stride(0);
  sizes.shift_step[1] = shift.stride(1);
  sizes.source_step = source.has_value() ? source->stride(0) : 1;
  sizes.dims = problem.dims;
  sizes.type = type_of(x);
  sizes.shift_type = type_of(shift);
  sizes.channels_last = problem.channels_last;
  return sizes;
}

// The image dense in the problem's format; itself where it is already.
Tensor dense(const asl::Problem& problem, const Tensor& image) {
  if (!problem.channels_last) return row_major(image);
  return torch::stable::contiguous(image,
                                   problem.dims == 2 ? MemoryFormat::ChannelsLast : MemoryFormat::ChannelsLast3d);
}

const int64_t* pointer(const std::optional<Tensor>& source) {
  return source.has_value() ? static_cast<const int64_t*>(source->data_ptr()) : nullptr;
}

Tensor workspace(const Tensor& like, int64_t elements, ScalarType type) {
  const std::vector<int64_t> shape{elements};
  return torch::stable::empty(shape, type, std::nullopt, like.device());
}

Tensor active_shift(Tensor x, Tensor shift, std::optional<Tensor> source, std::vector<int64_t> stride,
                    std::vector<int64_t> delta) {
  const asl::Problem problem = check(x, shift, source, stride, delta);
  const Context context(x);
  const Tensor input = dense(problem, x);
  Tensor y = empty_output(problem, x, problem.rows, problem.channels_last);
  const Sizes sizes = sizes_of(problem, x, shift, source);
  check_started("active shift", asl_cuda_forward(&sizes, input.data_ptr(), shift.data_ptr(), pointer(source),
                                                 y.data_ptr(), context.stream()));
  return y;
}

std::tuple<Tensor, Tensor> active_shift_backward(Tensor grad, Tensor x, Tensor shift, std::optional<Tensor> source,
                                                 std::vector<int64_t> stride, std::vector<int64_t> delta,
                                                 bool need_input, bool need_shift) {
  const asl::Problem problem = check(x, shift, source, stride, delta);
  check_grad(problem, grad, x);
  const Context context(x);
  const Tensor upstream = dense(problem, grad);
  const Sizes sizes = sizes_of(problem, x, shift, source);
  Tensor grad_input = workspace(x, 0, x.scalar_type()), grad_shift = workspace(shift, 0, shift.scalar_type());
  if (need_input) {
    const std::vector<int64_t> shape(x.sizes().begin(), x.sizes().end());
    const MemoryFormat format = !problem.channels_last ? MemoryFormat::Contiguous
                                : problem.dims == 2    ? MemoryFormat::ChannelsLast
                                                       : MemoryFormat::ChannelsLast3d;
    grad_input = torch::stable::empty(shape, x.scalar_type(), std::nullopt, x.device(), std::nullopt, format);
    Tensor readers = workspace(x, source.has_value() ? problem.channels + 1 + problem.rows : 0, ScalarType::Int);
    check_started("active shift", asl_cuda_input_gradient(&sizes, upstream.data_ptr(), shift.data_ptr(),
                                                          pointer(source), static_cast<int32_t*>(readers.data_ptr()),
                                                          grad_input.data_ptr(), context.stream()));
  }
  if (need_shift) {
    const Tensor input = dense(problem, x);
    const std::vector<int64_t> shape{shift.size(0), shift.size(1)};
    grad_shift = torch::stable::empty(shape, shift.scalar_type(), std::nullopt, shift.device());
    Tensor partial = workspace(x, asl_cuda_shift_gradient_workspace(&sizes), ScalarType::Byte);
    check_started("active shift",
                  asl_cuda_shift_gradient(&sizes, upstream.data_ptr(), input.data_ptr(), shift.data_ptr(),
                                          pointer(source), partial.data_ptr(), grad_shift.data_ptr(),
                                          context.stream()));
  }
  return {grad_input, grad_shift};
}

}  // namespace
}  // namespace asl::cuda

STABLE_TORCH_LIBRARY_IMPL(asl, CUDA, m) {
  m.impl("active_shift", TORCH_BOX(&asl::cuda::active_shift));
  m.impl("active_shift_backward", TORCH_BOX(&asl::cuda::active_shift_backward));
}
