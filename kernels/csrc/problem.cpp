// Argument checks: every message says which argument, what was expected and what came.
#include "problem.h"

#include <sstream>
#include <stdexcept>

#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/core/MemoryFormat.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

namespace asl {
namespace {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;

// Far past any real image, and small enough that no index computation can overflow.
constexpr int64_t kLargest = int64_t{1} << 31;
// An expanded shift can claim any number of rows without having memory for them; the plan of each is laid out.
constexpr int64_t kMostRows = int64_t{1} << 24;

std::string text(const std::vector<int64_t>& shape) {
  std::ostringstream out;
  out << '[';
  for (size_t d = 0; d < shape.size(); ++d) out << (d == 0 ? "" : ", ") << shape[d];
  out << ']';
  return out.str();
}

std::string text(const Tensor& tensor) { return text({tensor.sizes().begin(), tensor.sizes().end()}); }

// Nobody computes in float16 on a CPU, and the CPU's loops do not take it.
bool supported(const Tensor& tensor) {
  const ScalarType type = tensor.scalar_type();
  return type == ScalarType::Float || type == ScalarType::Double || type == ScalarType::BFloat16 ||
         (type == ScalarType::Half && !tensor.is_cpu());
}

const char* supported_names(const Tensor& tensor) {
  return tensor.is_cpu() ? "float32, float64 or bfloat16" : "float32, float64, bfloat16 or float16";
}

bool is_channels_last(const Tensor& x) {
  const int64_t dims = x.dim();
  if (dims < 4 || x.is_contiguous()) return false;
  int64_t expected = 1;
  const auto matches = [&](int64_t d) {
    if (x.size(d) != 1 && x.stride(d) != expected) return false;
    expected *= x.size(d);
    return true;
  };
  if (!matches(1)) return false;
  for (int64_t d = dims - 1; d >= 2; --d) {
    if (!matches(d)) return false;
  }
  return matches(0);
}

// The library keeps the reason of a failure to itself.
Tensor in_order(const Tensor& x, MemoryFormat format) {
  try {
    return torch::stable::contiguous(x, format);
  } catch (const std::exception&) {
    throw std::runtime_error("active shift: a tensor of " + text(x) +
                             " cannot be copied into one piece: not enough memory, or not a dense tensor");
  }
}

MemoryFormat last_format(int dims) { return dims == 2 ? MemoryFormat::ChannelsLast : MemoryFormat::ChannelsLast3d; }

}  // namespace

std::vector<int64_t> Problem::output_shape(int64_t output_channels) const {
  std::vector<int64_t> shape{batch, output_channels};
  for (int d = 3 - dims; d < 3; ++d) shape.push_back(extent.out[d]);
  return shape;
}

Problem check(const Tensor& x, const Tensor& shift, const std::optional<Tensor>& source,
              const std::vector<int64_t>& stride, const std::vector<int64_t>& delta) {
  Problem problem{};
  const int dims = static_cast<int>(x.dim()) - 2;
  problem.dims = dims;
  STD_TORCH_CHECK(dims >= 1 && dims <= 3, "active shift: x must be [N, C, *spatial] with 1 to 3 spatial axes, got ",
                  x.dim(), " dims");
  STD_TORCH_CHECK(shift.device() == x.device() && (!source.has_value() || source->device() == x.device()),
                  "active shift: x, shift and source must be on one device");
  STD_TORCH_CHECK(supported(x), "active shift: x must be ", supported_names(x));
  STD_TORCH_CHECK(shift.dim() == 2 && shift.size(1) == dims, "active shift: shift must be [K, ", dims, "], got ",
                  text(shift));
  STD_TORCH_CHECK(supported(shift), "active shift: shift must be ", supported_names(shift));
  problem.batch = x.size(0);
  problem.channels = x.size(1);
  problem.rows = shift.size(0);
  STD_TORCH_CHECK(problem.rows <= kMostRows, "active shift: shift has ", problem.rows, " rows, more than 2^24");
  STD_TORCH_CHECK(static_cast<int>(stride.size()) == dims && static_cast<int>(delta.size()) == dims,
                  "active shift: stride and delta need one entry per spatial axis (", dims, ")");
  for (int d = 0; d < 3; ++d) problem.extent.size[d] = problem.extent.out[d] = problem.extent.stride[d] = 1;
  for (int d = 0; d < dims; ++d) {
    const int axis = 3 - dims + d;
    const int64_t size = x.size(d + 2);
    STD_TORCH_CHECK(stride[d] >= 1 && stride[d] < kLargest,
                    "active shift: stride must be at least 1 and below 2^31, got ", stride[d]);
    STD_TORCH_CHECK(size < kLargest && delta[d] > -kLargest && delta[d] < kLargest,
                    "active shift: size ", size, " with delta ", delta[d], " is too large");
    STD_TORCH_CHECK(size + delta[d] >= 0, "active shift: the output would be empty: size ", size, " with delta ",
                    delta[d]);
    problem.extent.size[axis] = size;
    problem.extent.out[axis] = (size + delta[d]) / stride[d] + 1;
    // A single output pixel takes no step, and a huge one would ask for memory in proportion.
    problem.extent.stride[axis] = problem.extent.out[axis] > 1 ? stride[d] : 1;
  }
  problem.channels_last = is_channels_last(x);

  if (source.has_value()) {
    STD_TORCH_CHECK(source->scalar_type() == ScalarType::Long, "active shift: source must be int64");
    STD_TORCH_CHECK(source->dim() == 1 && source->size(0) == problem.rows, "active shift: source must be [K] with K = ",
                    problem.rows, ", got ", text(*source));
  } else {
    STD_TORCH_CHECK(problem.rows == problem.channels, "active shift: without source the rows of shift (", problem.rows,
                    ") must be the channels of x (", problem.channels, ")");
  }
  // Elsewhere the values lie on a device, and reading them would wait for it.
  if (!x.is_cpu()) return problem;
  problem.source.resize(problem.rows);
  const int64_t step = source.has_value() && problem.rows > 0 ? source->stride(0) : 1;
  const int64_t* data = source.has_value() ? static_cast<const int64_t*>(source->data_ptr()) : nullptr;
  for (int64_t k = 0; k < problem.rows; ++k) {
    const int64_t channel = data == nullptr ? k : data[k * step];
    STD_TORCH_CHECK(channel >= 0 && channel < problem.channels, "active shift: source must lie in [0, ",
                    problem.channels, "), got ", channel);
    problem.source[k] = channel;
  }
  return problem;
}

void check_grad(const Problem& problem, const Tensor& grad, const Tensor& x) {
  const std::vector<int64_t> expected = problem.output_shape(problem.rows);
  bool same = grad.device() == x.device() && grad.scalar_type() == x.scalar_type() &&
              grad.dim() == static_cast<int64_t>(expected.size());
  for (size_t d = 0; same && d < expected.size(); ++d) same = grad.size(d) == expected[d];
  STD_TORCH_CHECK(same, "active shift: grad must have the output's shape and type, got ", text(grad));
}

void check_addends(const Problem& problem, const Tensor& x, int64_t out_channels, const std::optional<Tensor>& bias,
                   const std::optional<Tensor>& residual) {
  if (bias.has_value()) {
    STD_TORCH_CHECK(bias->device() == x.device() && bias->dim() == 1 && bias->size(0) == out_channels &&
                        bias->scalar_type() == x.scalar_type(),
                    "shift pointwise: bias must be [", out_channels, "] of x's type, got ", text(*bias));
  }
  if (residual.has_value()) {
    const std::vector<int64_t> expected = problem.output_shape(out_channels);
    bool same = residual->device() == x.device() && residual->scalar_type() == x.scalar_type() &&
                residual->dim() == static_cast<int64_t>(expected.size());
    for (size_t d = 0; same && d < expected.size(); ++d) same = residual->size(d) == expected[d];
    STD_TORCH_CHECK(same, "shift pointwise: residual must have the output's shape and type, got ", text(*residual));
  }
}

void check_pointwise(const Problem& problem, const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                     const std::optional<Tensor>& residual) {
  STD_TORCH_CHECK(weight.device() == x.device() && weight.dim() == 2 && weight.size(1) == problem.rows &&
                      weight.scalar_type() == x.scalar_type(),
                  "shift pointwise: weight must be [C_out, ", problem.rows, "] of x's type, got ", text(weight));
  check_addends(problem, x, weight.size(0), bias, residual);
}

void check_packed(const Problem& problem, const Tensor& x, const Tensor& packed, int64_t out_channels,
                  const std::optional<Tensor>& bias, const std::optional<Tensor>& residual) {
  STD_TORCH_CHECK(out_channels >= 0 && out_channels < kLargest,
                  "shift pointwise: out_channels must not be negative, got ", out_channels);
  STD_TORCH_CHECK(packed.device() == x.device() && packed.dim() == 3 && packed.size(0) == (out_channels + 15) / 16 &&
                      packed.size(1) == problem.rows && packed.size(2) == 16 &&
                      packed.scalar_type() == x.scalar_type(),
                  "shift pointwise: packed must be [", (out_channels + 15) / 16, ", ", problem.rows,
                  ", 16] of x's type, got ", text(packed));
  check_addends(problem, x, out_channels, bias, residual);
}

Tensor row_major(const Tensor& x) { return x.is_contiguous() ? x : in_order(x, MemoryFormat::Contiguous); }

Tensor in_problem_format(const Problem& problem, const Tensor& x) {
  return problem.channels_last ? in_order(x, last_format(problem.dims)) : row_major(x);
}

Tensor empty_output(const Problem& problem, const Tensor& x, int64_t output_channels, bool channels_last) {
  return empty_like(x, problem.output_shape(output_channels), channels_last);
}

Tensor empty_like(const Tensor& x, const std::vector<int64_t>& shape, bool channels_last) {
  // Past the dispatcher, whose search for an op by its name costs as much as a small layer.
  const int64_t axes = static_cast<int64_t>(shape.size());
  std::vector<int64_t> strides(shape.size());
  int64_t step = 1;
  // Whether the batch itself can be counted is for the allocation to say: it may be empty.
  bool countable = true;
  const auto take = [&](int64_t d) {
    strides[d] = step;
    if (d > 0) countable &= !__builtin_mul_overflow(step, std::max<int64_t>(shape[d], 1), &step);
  };
  if (channels_last) take(1);
  for (int64_t d = axes - 1; d >= (channels_last ? 2 : 0); --d) take(d);
  if (channels_last) take(0);
  STD_TORCH_CHECK(countable, "active shift: a result of ", text(shape), " has more elements than can be counted");
  int32_t dtype, device_type, device_index;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(x.get(), &dtype));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(x.get(), &device_type));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(x.get(), &device_index));
  AtenTensorHandle fresh;
  const AOTITorchError failed =
      aoti_torch_empty_strided(axes, shape.data(), strides.data(), dtype, device_type, device_index, &fresh);
  // The library keeps the reason to itself.
  STD_TORCH_CHECK(failed == AOTI_TORCH_SUCCESS, "active shift: not enough memory for a result of ", text(shape));
  return Tensor(fresh);
}

}  // namespace asl
