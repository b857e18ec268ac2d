// What the CUDA sources offer to the C++ side: plain pointers and sizes, no torch and no CUDA types.
#pragma once

#include <cstdint>

namespace asl::cuda {

enum Type : int32_t { kFloat32 = 0, kFloat64 = 1, kBFloat16 = 2, kFloat16 = 3 };

// A problem on three spatial axes (z, y, x); axes that the image lacks have size 1 and stride 1.
struct Sizes {
  int64_t batch, channels, rows;
  int64_t size[3], out[3], stride[3];
  int64_t shift_step[2];  // elements between rows and between axes of shift
  int64_t source_step;    // elements between entries of source
  int32_t dims;           // spatial axes of the caller's image
  int32_t type;           // Type of x, y and their gradients
  int32_t shift_type;     // Type of shift and its gradient
  int32_t channels_last;  // images are [N, *spatial, C] in memory, else [N, C, *spatial]; dense either way
};

}  // namespace asl::cuda

// Every launcher returns null, or a message that lives as long as the process. Nothing synchronises or allocates.
// A row with a source outside [0, channels) or a shift that is not finite cannot be refused without waiting for the
// device: its output and its shift gradient are NaN, it adds nothing to the input's gradient, and nothing is read for it.
extern "C" {

// Makes the device the current one of the CUDA runtime that the kernels are started through.
const char* asl_cuda_use_device(int device);

// The toolkit that the kernels were compiled with, such as 13.0.
const char* asl_cuda_version();

// y [N, K, *out] from x [N, C, *size], shift [K, D], source [K] or null.
const char* asl_cuda_forward(const asl::cuda::Sizes* sizes, const void* x, const void* shift, const int64_t* source,
                             void* y, void* stream);

// grad_input [N, C, *size] from grad [N, K, *out]. readers: room for C + 1 + K numbers; unused where source is null.
const char* asl_cuda_input_gradient(const asl::cuda::Sizes* sizes, const void* grad, const void* shift,
                                    const int64_t* source, int32_t* readers, void* grad_input, void* stream);

// Bytes of the workspace `partial` below.
int64_t asl_cuda_shift_gradient_workspace(const asl::cuda::Sizes* sizes);

// grad_shift [K, D], row-major, in the type of shift.
const char* asl_cuda_shift_gradient(const asl::cuda::Sizes* sizes, const void* grad, const void* x, const void* shift,
                                    const int64_t* source, void* partial, void* grad_shift, void* stream);

}  // extern "C"
