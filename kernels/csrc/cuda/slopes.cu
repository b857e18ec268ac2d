// The shift gradient: chooses how the sums are cut up, and adds up the blocks' sums.
#include "slopes.h"

#include "gather_planes.cuh"

namespace asl::cuda {

const char* slope_planes_float32(const SlopeSums& given, const Cut& cut, int v, void* stream);
const char* slope_planes_float64(const SlopeSums& given, const Cut& cut, int v, void* stream);
const char* slope_planes_bfloat16(const SlopeSums& given, const Cut& cut, int v, void* stream);
const char* slope_planes_float16(const SlopeSums& given, const Cut& cut, int v, void* stream);
const char* slope_pixels(const SlopeSums& given, const Cut& cut, int64_t batch, int type, int v, void* stream);
const char* fits(const Sizes& sizes);
Problem problem_of(const Sizes& sizes, const void* shift, const int64_t* source);

namespace {

constexpr int kColumns = 32, kParts = 8;

// One thread column per row and axis; the parts of a column are added in order.
template <typename A>
__global__ void __launch_bounds__(kColumns * kParts) add_partials(const A* partial, int64_t chunks, int rows, int dims,
                                                                  void* result, int type) {
  __shared__ double parts[kParts][kColumns];
  const int64_t columns = static_cast<int64_t>(rows) * 3;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kColumns + threadIdx.x;
  double sum = 0;
  if (column < columns) {
    for (int64_t chunk = threadIdx.y; chunk < chunks; chunk += kParts) {
      sum += static_cast<double>(partial[chunk * columns + column]);
    }
  }
  parts[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  const int axis = static_cast<int>(column % 3) - (3 - dims);
  if (threadIdx.y != 0 || column >= columns || axis < 0) return;
  for (int part = 1; part < kParts; ++part) sum += parts[part][threadIdx.x];
  const int64_t to = column / 3 * dims + axis;
  if (type == kFloat64) {
    static_cast<double*>(result)[to] = sum;
  } else if (type == kFloat32) {
    static_cast<float*>(result)[to] = static_cast<float>(sum);
  } else if (type == kBFloat16) {
    static_cast<__nv_bfloat16*>(result)[to] = narrowed<__nv_bfloat16>(static_cast<float>(sum));
  } else {
    static_cast<__half*>(result)[to] = narrowed<__half>(static_cast<float>(sum));
  }
}

// Channels per thread where they are last in memory; there each is loaded by itself, so alignment does not matter.
int pixel_vector(const Problem& problem, int type) {
  return type >= kBFloat16 && problem.rows % 2 == 0 ? 2 : 1;
}

Cut cut_of(const Sizes& sizes, const Problem& problem, int v) {
  return sizes.channels_last ? slope_pixels_cut(problem, sizes.batch, v) : slope_planes_cut(problem, sizes.batch, v);
}

}  // namespace

Cut slope_planes_cut(const Problem& problem, int64_t batch, int v) {
  Cut cut{};
  const int64_t groups = plane_groups(problem.out, v);
  // Few enough blocks per plane that the second stage stays small.
  constexpr int64_t kMostChunks = 64;
  cut.block = plane_block(groups);
  const int64_t blocks_x = batch * ((problem.rows + cut.block.y - 1) / cut.block.y);
  const int64_t blocks_y = (groups + cut.block.x - 1) / cut.block.x;
  if (blocks_x > INT32_MAX || groups > INT32_MAX) {
    cut.error = "active shift: the image is too large for the CUDA kernels";
  }
  cut.grid = dim3(static_cast<unsigned>(blocks_x), static_cast<unsigned>(blocks_y < kMostChunks ? blocks_y : kMostChunks));
  cut.chunks = batch * cut.grid.y;
  return cut;
}

int slope_vector(const Problem& problem, int type, const void* x, const void* grad) {
  const bool unit = problem.stride[1] == 1 && problem.stride[2] == 1;
  switch (type) {
    case kFloat32:
      return widest_vector<float>(problem.size, problem.out, x, grad, unit);
    case kFloat64:
      return widest_vector<double>(problem.size, problem.out, x, grad, unit);
    default:
      return widest_vector<__half>(problem.size, problem.out, x, grad, unit);
  }
}

}  // namespace asl::cuda

using namespace asl::cuda;

extern "C" {

int64_t asl_cuda_shift_gradient_workspace(const Sizes* sizes) {
  if (fits(*sizes) != nullptr) return 0;
  const Problem problem = problem_of(*sizes, nullptr, nullptr);
  int64_t most = 0;
  // Alignment, which decides on the vector, is not known yet: enough for each.
  for (int v = 1; v <= 8; v *= 2) {
    if (!sizes->channels_last && sizes->out[2] % v != 0) break;
    const int64_t chunks = cut_of(*sizes, problem, v).chunks;
    most = chunks > most ? chunks : most;
  }
  return most * sizes->rows * 3 * (sizes->type == kFloat64 ? 8 : 4);
}

const char* asl_cuda_shift_gradient(const Sizes* sizes, const void* grad, const void* x, const void* shift,
                                    const int64_t* source, void* partial, void* grad_shift, void* stream) {
  if (const char* problem = fits(*sizes)) return problem;
  if (sizes->rows == 0) return nullptr;
  SlopeSums given{};
  given.problem = problem_of(*sizes, shift, source);
  given.x = x;
  given.grad = grad;
  given.partial = partial;
  const int type = sizes->type;
  const int v = sizes->channels_last ? pixel_vector(given.problem, type) : slope_vector(given.problem, type, x, grad);
  const Cut cut = cut_of(*sizes, given.problem, v);
  if (cut.error != nullptr) return cut.error;
  const char* error = nullptr;
  if (sizes->channels_last) {
    error = slope_pixels(given, cut, sizes->batch, type, v, stream);
  } else if (type == kFloat32) {
    error = slope_planes_float32(given, cut, v, stream);
  } else if (type == kFloat64) {
    error = slope_planes_float64(given, cut, v, stream);
  } else if (type == kBFloat16) {
    error = slope_planes_bfloat16(given, cut, v, stream);
  } else {
    error = slope_planes_float16(given, cut, v, stream);
  }
  if (error != nullptr) return error;
  const dim3 grid(static_cast<unsigned>((sizes->rows * 3 + kColumns - 1) / kColumns)), block(kColumns, kParts);
  const int rows = given.problem.rows, dims = sizes->dims;
  if (type == kFloat64) {
    return launch(add_partials<double>, grid, block, 0, stream, static_cast<const double*>(partial), cut.chunks, rows,
                  dims, grad_shift, sizes->shift_type);
  }
  return launch(add_partials<float>, grid, block, 0, stream, static_cast<const float*>(partial), cut.chunks, rows, dims,
                grad_shift, sizes->shift_type);
}

}  // extern "C"
