// Calls the launchers of the fused op with flat arguments, as the emulator's caller gives them.
#include <cstdint>

#include "pointwise.h"

using namespace asl::cuda;

// `numbers`: batch, channels, rows, out channels; size, out, stride (z, y, x each); axes, the shift's type, whether
// channels come last, ReLU; the type, whether by TF32; multiprocessors, shared memory of a block and of a multiprocessor.
extern "C" const char* pointwise(const void* x, const void* shift, const int64_t* source, const void* weight,
                                 const void* bias, const void* residual, void* out, const int64_t* numbers) {
  PointwiseProblem problem{};
  problem.x = x;
  problem.shift = shift;
  problem.source = source;
  problem.weight = weight;
  problem.bias = bias;
  problem.residual = residual;
  problem.out = out;
  problem.batch = numbers[0];
  problem.channels = numbers[1];
  problem.rows = numbers[2];
  problem.out_channels = numbers[3];
  for (int axis = 0; axis < 3; ++axis) {
    problem.size[axis] = numbers[4 + axis];
    problem.out_size[axis] = numbers[7 + axis];
    problem.stride[axis] = numbers[10 + axis];
  }
  problem.axes = static_cast<int32_t>(numbers[13]);
  problem.shift_type = static_cast<Real>(numbers[14]);
  problem.channels_last = numbers[15] != 0;
  problem.relu = numbers[16] != 0;
  const Device device{static_cast<int32_t>(numbers[19]), static_cast<int32_t>(numbers[20]),
                      static_cast<int32_t>(numbers[21])};
  switch (static_cast<Real>(numbers[17])) {
    case Real::float32: return asl_pointwise_float32(&problem, &device, static_cast<int>(numbers[18]), nullptr);
    case Real::bfloat16: return asl_pointwise_bfloat16(&problem, &device, nullptr);
    case Real::float16: return asl_pointwise_float16(&problem, &device, nullptr);
    default: return asl_pointwise_any(&problem, Real::float64, nullptr);
  }
}
