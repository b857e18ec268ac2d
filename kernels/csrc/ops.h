// The ops of namespace asl and their schemas; each op's meaning is written in kernels/reference.py.
#pragma once

#include <optional>
#include <tuple>
#include <vector>

#include <torch/csrc/stable/tensor.h>

namespace asl {

using torch::stable::Tensor;

constexpr const char* kActiveShiftSchema =
    "active_shift(Tensor x, Tensor shift, Tensor? source, int[] stride, int[] delta) -> Tensor";
constexpr const char* kActiveShiftBackwardSchema =
    "active_shift_backward(Tensor grad, Tensor x, Tensor shift, Tensor? source, int[] stride, int[] delta, "
    "bool need_input, bool need_shift) -> (Tensor, Tensor)";
constexpr const char* kShiftPointwiseSchema =
    "shift_pointwise(Tensor x, Tensor shift, Tensor? source, Tensor weight, Tensor? bias, int[] stride, int[] delta, "
    "bool relu, Tensor? residual=None) -> Tensor";
constexpr const char* kPackPointwiseSchema = "pack_pointwise(Tensor weight) -> Tensor";
constexpr const char* kShiftPointwisePackedSchema =
    "shift_pointwise_packed(Tensor x, Tensor shift, Tensor? source, Tensor packed, int out_channels, Tensor? bias, "
    "int[] stride, int[] delta, bool relu, Tensor? residual=None) -> Tensor";
constexpr const char* kShiftPointwiseInt16Schema =
    "shift_pointwise_int16(Tensor x, Tensor shift, Tensor? source, Tensor weight, Tensor scale, Tensor? bias, "
    "int[] stride, int[] delta, bool relu, Tensor? residual=None) -> Tensor";

Tensor active_shift(Tensor x,                      // [N, C, *spatial]
                    Tensor shift,                  // [K, D]
                    std::optional<Tensor> source,  // [K]
                    std::vector<int64_t> stride, std::vector<int64_t> delta);

std::tuple<Tensor, Tensor> active_shift_backward(Tensor grad,                   // [N, K, *out]
                                                 Tensor x,                      // [N, C, *spatial]
                                                 Tensor shift,                  // [K, D]
                                                 std::optional<Tensor> source,  // [K]
                                                 std::vector<int64_t> stride, std::vector<int64_t> delta,
                                                 bool need_input, bool need_shift);

Tensor shift_pointwise(Tensor x,                      // [N, C, *spatial]
                       Tensor shift,                  // [K, D]
                       std::optional<Tensor> source,  // [K]
                       Tensor weight,                 // [C_out, K]
                       std::optional<Tensor> bias,    // [C_out]
                       std::vector<int64_t> stride, std::vector<int64_t> delta, bool relu,
                       std::optional<Tensor> residual);  // [N, C_out, *out]

Tensor shift_pointwise_packed(Tensor x, Tensor shift, std::optional<Tensor> source,
                              Tensor packed,  // [C_out / 16 rounded up, K, 16]
                              int64_t out_channels, std::optional<Tensor> bias, std::vector<int64_t> stride,
                              std::vector<int64_t> delta, bool relu, std::optional<Tensor> residual);

Tensor shift_pointwise_int16(Tensor x, Tensor shift, std::optional<Tensor> source,
                             Tensor weight,  // [C_out / 8 rounded up, K / 2 rounded up, 8, 2] int16
                             Tensor scale,   // [C_out]
                             std::optional<Tensor> bias, std::vector<int64_t> stride, std::vector<int64_t> delta,
                             bool relu, std::optional<Tensor> residual);

}  // namespace asl
