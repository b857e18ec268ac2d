// Turns a problem into the launches of one op.
#include "launchers.h"

#include "gather.h"

namespace asl::cuda {

const char* gather_planes_float32(const Gather& gather, int64_t batch, void* stream);
const char* gather_planes_float64(const Gather& gather, int64_t batch, void* stream);
const char* gather_planes_bfloat16(const Gather& gather, int64_t batch, void* stream);
const char* gather_planes_float16(const Gather& gather, int64_t batch, void* stream);
const char* list_readers_of(const Problem& problem, int32_t* readers, void* stream);
const char* gather_strided_images(const Gather& gather, int64_t batch, int type, bool channels_last, void* stream);

const char* gather_planes(const Gather& gather, int64_t batch, int type, void* stream) {
  switch (type) {
    case kFloat32:
      return gather_planes_float32(gather, batch, stream);
    case kFloat64:
      return gather_planes_float64(gather, batch, stream);
    case kBFloat16:
      return gather_planes_bfloat16(gather, batch, stream);
    default:
      return gather_planes_float16(gather, batch, stream);
  }
}

// Positions, and shifts up to 1e9 added to them, must fit into 32 bits.
constexpr int64_t kLargest = int64_t{1} << 30;

const char* fits(const Sizes& sizes) {
  for (int axis = 0; axis < 3; ++axis) {
    const bool small = sizes.size[axis] < kLargest && sizes.out[axis] < kLargest && sizes.stride[axis] < kLargest &&
                       sizes.out[axis] * sizes.stride[axis] < kLargest + sizes.stride[axis];
    if (!small) return "active shift: an axis of the image is too long for the CUDA kernels";
  }
  if (sizes.channels >= INT32_MAX || sizes.rows >= INT32_MAX || sizes.batch >= INT32_MAX) {
    return "active shift: too many images, channels or rows for the CUDA kernels";
  }
  return nullptr;
}

Problem problem_of(const Sizes& sizes, const void* shift, const int64_t* source) {
  Problem problem{};
  problem.channels = static_cast<int>(sizes.channels);
  problem.rows = static_cast<int>(sizes.rows);
  problem.dims = sizes.dims;
  problem.shift_type = sizes.shift_type;
  for (int axis = 0; axis < 3; ++axis) {
    problem.size[axis] = static_cast<int>(sizes.size[axis]);
    problem.out[axis] = static_cast<int>(sizes.out[axis]);
    problem.stride[axis] = static_cast<int>(sizes.stride[axis]);
  }
  problem.shift_step[0] = sizes.shift_step[0];
  problem.shift_step[1] = sizes.shift_step[1];
  problem.source_step = sizes.source_step;
  problem.shift = shift;
  problem.source = source;
  return problem;
}

}  // namespace asl::cuda

using namespace asl::cuda;

#define ASL_TEXT_OF(number) #number
#define ASL_TEXT(number) ASL_TEXT_OF(number)

extern "C" {

#ifndef ASL_EMULATE
const char* asl_cuda_use_device(int device) {
  const cudaError_t error = cudaSetDevice(device);
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

const char* asl_cuda_version() { return ASL_TEXT(__CUDACC_VER_MAJOR__) "." ASL_TEXT(__CUDACC_VER_MINOR__); }
#endif

const char* asl_cuda_forward(const Sizes* sizes, const void* x, const void* shift, const int64_t* source, void* y,
                             void* stream) {
  if (const char* problem = fits(*sizes)) return problem;
  if (sizes->batch == 0 || sizes->rows == 0) return nullptr;
  Gather gather{};
  gather.problem = problem_of(*sizes, shift, source);
  gather.in = x;
  gather.out = y;
  gather.in_planes = gather.problem.channels;
  gather.out_planes = gather.problem.rows;
  for (int axis = 0; axis < 3; ++axis) {
    gather.in_size[axis] = gather.problem.size[axis];
    gather.out_size[axis] = gather.problem.out[axis];
    gather.step[axis] = gather.problem.stride[axis];
  }
  return sizes->channels_last ? gather_pixels(gather, sizes->batch, sizes->type, stream)
                              : gather_planes(gather, sizes->batch, sizes->type, stream);
}

const char* asl_cuda_input_gradient(const Sizes* sizes, const void* grad, const void* shift, const int64_t* source,
                                    int32_t* readers, void* grad_input, void* stream) {
  if (const char* problem = fits(*sizes)) return problem;
  if (sizes->batch * sizes->channels * sizes->size[0] * sizes->size[1] * sizes->size[2] == 0) return nullptr;
  Gather gather{};
  gather.problem = problem_of(*sizes, shift, source);
  gather.in = grad;
  gather.out = grad_input;
  gather.in_planes = gather.problem.rows;
  gather.out_planes = gather.problem.channels;
  gather.adjoint = true;
  bool unit = true;
  for (int axis = 0; axis < 3; ++axis) {
    gather.in_size[axis] = gather.problem.out[axis];
    gather.out_size[axis] = gather.problem.size[axis];
    gather.step[axis] = 1;
    unit = unit && gather.problem.stride[axis] == 1;
  }
  if (source != nullptr) {
    gather.readers = readers;
    if (const char* error = list_readers_of(gather.problem, readers, stream)) return error;
  }
  if (!unit) return gather_strided_images(gather, sizes->batch, sizes->type, sizes->channels_last != 0, stream);
  return sizes->channels_last ? gather_pixels(gather, sizes->batch, sizes->type, stream)
                              : gather_planes(gather, sizes->batch, sizes->type, stream);
}

}  // extern "C"
