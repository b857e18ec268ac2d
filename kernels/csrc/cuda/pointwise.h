// What the fused shift + 1x1 kernels are given, and their launchers; no torch and no CUDA headers.
#pragma once

#include <cstdint>

namespace asl::cuda {

// Types of the shifts; x, weight, bias, residual and output share the launcher's type.
enum class Real : int32_t { float32, float64, bfloat16, float16 };

// Pointers to the device. Axes are (z, y, x); those that the image lacks have size, out and stride 1 and no shift.
struct PointwiseProblem {
  const void* x;          // [N, C, z, y, x], or [N, z, y, x, C] where channels_last
  const void* shift;      // [K, axes], in `shift_type`
  const int64_t* source;  // [K], or null where row k reads channel k
  const void* weight;     // [C_out, K]
  const void* bias;       // [C_out] or null
  const void* residual;   // like out, or null
  void* out;              // [N, C_out, z, y, x], or [N, z, y, x, C_out]
  int64_t batch, channels, rows, out_channels;
  int64_t size[3], out_size[3], stride[3];
  int32_t axes;
  Real shift_type;
  bool channels_last, relu;
};

// What the launchers choose their tiles by.
struct Device {
  int32_t multiprocessors;
  int32_t shared_per_block, shared_per_multiprocessor;  // bytes
};

// Sizes of shared memory that the plan and the kernel agree on.
constexpr int kTableSlabs = 16, kTableRowBytes = 24, kBoxBytes = 48, kPatchBytes = 16, kItemBytes = 16,
              kMostPatches = 16;

// Blocks of a tile's shape that a multiprocessor has registers for.
constexpr int blocks_of(int pixels, int columns) { return pixels * columns <= 8192 ? 3 : 2; }

// How the output is cut for the tile kernel: a tile is 4x4 patches of pixels of `images` images by `columns` channels.
struct PointwiseTiles {
  int32_t pixels, columns;  // 128 x 64, 128 x 128 or, of 16 bits, 64 x 256
  int32_t images, patch_rows, patch_columns;
  int32_t column_tiles, tiles_x, tiles_y, groups;  // tiles along channels, x, y and images
  int32_t step[4];                                 // `grid` in that mixed radix: from a block's tile to its next
  int32_t grid;                                    // blocks
  int32_t batch, height, width, channels;          // of the problem, which a thread then need not narrow
  int32_t out_height, out_width, out_channels;
  int32_t stride_y, stride_x;
  int32_t weight_slabs, table_slabs;               // that are held at a time
  int32_t slots;                                   // input pixels that there is room for
  int32_t boxes;                                   // 2: a slab's input arrives while the one before it is sampled
  int64_t shared_bytes;
};

// `wide` says that the kernel exists for 64 x 256. False where the tile kernel cannot take the problem: three axes, or
// sizes past its 32-bit coordinates.
bool plan_pointwise(const PointwiseProblem& problem, const Device& device, int element_bytes, bool wide,
                    PointwiseTiles* tiles);

}  // namespace asl::cuda

// What the launchers choose their tiles by, of the CUDA device `index`.
extern "C" const char* asl_pointwise_device(int index, asl::cuda::Device* device);

// Start the kernel on the CUDA stream and return null, or a message that lives until the thread's next CUDA call.
// Nothing is allocated and nothing waits, so a launch can be captured into a graph.
extern "C" {
const char* asl_pointwise_bfloat16(const asl::cuda::PointwiseProblem* problem, const asl::cuda::Device* device,
                                   void* stream);
const char* asl_pointwise_float16(const asl::cuda::PointwiseProblem* problem, const asl::cuda::Device* device,
                                  void* stream);
// With tf32 the products are of operands rounded to 10 bits of mantissa, else of float32.
const char* asl_pointwise_float32(const asl::cuda::PointwiseProblem* problem, const asl::cuda::Device* device, int tf32,
                                  void* stream);
// Any type (the problem's tensors are of `type`), one to three axes, any size: plain, slower.
const char* asl_pointwise_any(const asl::cuda::PointwiseProblem* problem, asl::cuda::Real type, void* stream);
}
