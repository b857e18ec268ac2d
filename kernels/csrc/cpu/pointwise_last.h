// The fused op on channels_last images.
#pragma once

#include "../problem.h"

namespace asl {

// The 1x1 weight in whichever form the caller has it.
struct PointwiseWeight {
  const Tensor* plain = nullptr;   // [C_out, K]
  const Tensor* packed = nullptr;  // [C_out / 16 rounded up, K, 16]
  int64_t out_channels = 0;
};

struct Addends {
  const std::optional<Tensor>& bias;
  const std::optional<Tensor>& residual;
  bool relu;
};

// Writes relu?(weight . shifted x + bias + residual) and returns true, or returns false, with nothing written, where
// the form does not apply: it wants two axes, float32, and in each sixteen rows shifts that lie within kMostTaps pixels.
// It is fastest where sixteen rows read channels that lie within sixteen.
bool pointwise_last(const Problem& problem, const Tensor& x, const Tensor& shift, const PointwiseWeight& weight,
                    const Addends& addends, const Tensor& output);

}  // namespace asl
