// The fused op on contiguous images.
#pragma once

#include "pointwise_last.h"

namespace asl {

// Writes relu?(weight . shifted x + bias + residual) and returns true, or returns false, with nothing written, where
// the form does not apply or other forms are faster: it wants two axes of stride one, float32, AVX-512, and few rows.
bool pointwise_planes(const Problem& problem, const Tensor& x, const Tensor& shift, const PointwiseWeight& weight,
                      const Addends& addends, const Tensor& output);

}  // namespace asl
