// The library's matrix product on plain memory, through torch's C shims.
#pragma once

#include <cstdint>

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>
#include <torch/csrc/stable/device.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

namespace asl {

struct Matrix {
  void* data;
  int64_t rows, columns;
  int64_t row_step, column_step;  // elements
};

inline torch::stable::Tensor as_tensor(const Matrix& matrix, torch::headeronly::ScalarType type) {
  const int64_t size[2] = {matrix.rows, matrix.columns};
  const int64_t step[2] = {matrix.row_step, matrix.column_step};
  return torch::stable::from_blob(matrix.data, {size, 2}, {step, 2},
                                  torch::stable::Device(torch::headeronly::DeviceType::CPU), type);
}

// out = left . right
inline void multiply(const torch::stable::Tensor& out, const torch::stable::Tensor& left,
                     const torch::stable::Tensor& right) {
  TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_mm_out(out.get(), left.get(), right.get()));
}

}  // namespace asl
