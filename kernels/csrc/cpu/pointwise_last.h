// The fused op on channels_last images.
#pragma once

#include "../problem.h"

namespace asl {

// Writes relu?(weight . shifted x + bias) and returns true, or returns false, with nothing written, where the form
// does not apply: it wants float32 images at stride 1, and in each sixteen rows shifts that lie close together. Rows
// that do not read consecutive channels by sixteens cost a copy in cache. A weight stored by columns saves time.
bool pointwise_last(const Problem& problem, const Tensor& x, const Tensor& shift, const Tensor& weight,
                    const std::optional<Tensor>& bias, bool relu, const Tensor& output);

}  // namespace asl
