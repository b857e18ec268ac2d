// The checked arguments of an op, brought to three spatial axes.
#pragma once

#include <optional>
#include <vector>

#include <torch/csrc/stable/tensor.h>

#include "cpu/plane.h"

namespace asl {

using torch::stable::Tensor;

struct Problem {
  int dims;  // spatial axes of the caller's image
  int64_t batch;
  int64_t channels;
  int64_t rows;
  Extent extent;
  bool channels_last;
  std::vector<int64_t> source;  // on the CPU [rows], the channel of each row, in range; else empty

  std::vector<int64_t> output_shape(int64_t output_channels) const;
};

// Throws std::runtime_error with the reason where dims, types, sizes or devices do not fit, on the CPU also where the
// values of source do not.
Problem check(const Tensor& x, const Tensor& shift, const std::optional<Tensor>& source,
              const std::vector<int64_t>& stride, const std::vector<int64_t>& delta);

void check_grad(const Problem& problem, const Tensor& grad, const Tensor& x);

// bias [C_out], residual like the output.
void check_addends(const Problem& problem, const Tensor& x, int64_t out_channels, const std::optional<Tensor>& bias,
                   const std::optional<Tensor>& residual);

// weight [C_out, rows], bias [C_out], residual like the output.
void check_pointwise(const Problem& problem, const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                     const std::optional<Tensor>& residual);

// packed [C_out / 16 rounded up, rows, 16].
void check_packed(const Problem& problem, const Tensor& x, const Tensor& packed, int64_t out_channels,
                  const std::optional<Tensor>& bias, const std::optional<Tensor>& residual);

// The copy in plain row-major order, or the tensor itself.
Tensor row_major(const Tensor& x);

// An uninitialised tensor of x's type and device, in channels_last or row-major. Throws where there is no memory, or
// where an image of it has more than 2^63 elements: where it returns, its pixels and channels can be multiplied.
Tensor empty_like(const Tensor& x, const std::vector<int64_t>& shape, bool channels_last);
Tensor empty_output(const Problem& problem, const Tensor& x, int64_t output_channels, bool channels_last);

// The copy in the problem's memory format, or the tensor itself where it has that.
Tensor in_problem_format(const Problem& problem, const Tensor& x);

}  // namespace asl
