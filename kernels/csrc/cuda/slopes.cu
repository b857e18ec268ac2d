// The shift gradient: chooses how the sums are cut up, and adds up the blocks' sums.
#include "slopes.h"

#include "gather_planes.cuh"
#include "pixel_tiles.cuh"
#include "plane_tiles.h"
#include "tap_sums.cuh"

namespace asl::cuda {

const char* slope_planes_float32(const SlopeSums& given, const Cut& cut, int v, void* stream);
const char* slope_planes_float32(const SlopeSums& given, const PlaneTiles& tiles, int64_t batch, void* stream);
const char* slope_planes_float64(const SlopeSums& given, const Cut& cut, int v, void* stream);
const char* slope_planes_float64(const SlopeSums& given, const PlaneTiles& tiles, int64_t batch, void* stream);
const char* slope_planes_bfloat16(const SlopeSums& given, const Cut& cut, int v, void* stream);
const char* slope_planes_bfloat16(const SlopeSums& given, const PlaneTiles& tiles, int64_t batch, void* stream);
const char* slope_planes_float16(const SlopeSums& given, const Cut& cut, int v, void* stream);
const char* slope_planes_float16(const SlopeSums& given, const PlaneTiles& tiles, int64_t batch, void* stream);
const char* slope_pixels(const SlopeSums& given, const Cut& cut, int64_t batch, int type, int v, void* stream);
using Tiled = const char*(const SlopeSums& given, const PlaneTiles& tiles, int64_t batch, void* stream);
bool plan_slope_tiles(const SlopeSums& given, int64_t batch, int type, PixelTiles* tiles);
const char* slope_tiles(const SlopeSums& given, const PixelTiles& tiles, int type, void* stream);
const char* fits(const Sizes& sizes);
Problem problem_of(const Sizes& sizes, const void* shift, const int64_t* source);

namespace {

constexpr int kColumns = 32, kParts = 32;

// A row's slope along an axis is a column; each of its parts takes every kParts-th block's sum, and a warp adds them up.
template <typename A>
__global__ void __launch_bounds__(kColumns * kParts) add_partials(const A* partial, int64_t chunks, int rows, int dims,
                                                                  void* result, int type) {
  __shared__ double parts[kParts][kColumns + 1];
  const int64_t columns = static_cast<int64_t>(rows) * dims, first = static_cast<int64_t>(blockIdx.x) * kColumns;
  const int64_t mine = first + threadIdx.x;
  double sum = 0;
  if (mine < columns) {
    const A* from = partial + mine / dims * 3 + mine % dims + (3 - dims);
    // Many loads under way at a time.
#pragma unroll 8
    for (int64_t chunk = threadIdx.y; chunk < chunks; chunk += kParts) {
      sum += static_cast<double>(from[chunk * rows * 3]);
    }
  }
  parts[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  sum = parts[threadIdx.x][threadIdx.y];
#pragma unroll
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
  const int64_t to = first + threadIdx.y;
  if (threadIdx.x != 0 || to >= columns) return;
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

// The tiled kernel's cut; false where it does not do.
bool plan_slope_planes(const SlopeSums& given, int64_t batch, int type, PlaneTiles* tiles) {
  const Problem& p = given.problem;
  const PlaneImages images{given.x, given.grad, p.channels, p.rows, p.size, p.out, batch};
  const int extra = type == kFloat64 ? slope_bytes<double>() : slope_bytes<float>();
  return plan_plane_tiles(p, images, type, 2, extra, tiles);
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
  PixelTiles tiles;
  SlopeSums given{};
  given.problem = problem;
  if (sizes->channels_last && plan_slope_tiles(given, sizes->batch, sizes->type, &tiles)) {
    most = tiles.blocks / tiles.slabs;
  }
  PlaneTiles planes;
  if (!sizes->channels_last && plan_slope_planes(given, sizes->batch, sizes->type, &planes)) {
    most = sizes->batch * planes.bands;
  }
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
  PixelTiles tiles;
  PlaneTiles planes;
  Cut cut{};
  const char* error = nullptr;
  if (sizes->channels_last && plan_slope_tiles(given, sizes->batch, type, &tiles)) {
    cut.chunks = tiles.blocks / tiles.slabs;
    error = slope_tiles(given, tiles, type, stream);
  } else if (!sizes->channels_last && plan_slope_planes(given, sizes->batch, type, &planes)) {
    cut.chunks = sizes->batch * planes.bands;
    const auto start = type == kFloat32    ? static_cast<Tiled*>(slope_planes_float32)
                       : type == kFloat64  ? static_cast<Tiled*>(slope_planes_float64)
                       : type == kBFloat16 ? static_cast<Tiled*>(slope_planes_bfloat16)
                                           : static_cast<Tiled*>(slope_planes_float16);
    error = start(given, planes, sizes->batch, stream);
  } else {
    cut = cut_of(*sizes, given.problem, v);
    if (cut.error != nullptr) return cut.error;
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
  }
  if (error != nullptr) return error;
  const dim3 grid(static_cast<unsigned>((sizes->rows * sizes->dims + kColumns - 1) / kColumns)), block(kColumns, kParts);
  const int rows = given.problem.rows, dims = sizes->dims;
  if (type == kFloat64) {
    return launch(add_partials<double>, grid, block, 0, stream, static_cast<const double*>(partial), cut.chunks, rows,
                  dims, grad_shift, sizes->shift_type);
  }
  return launch(add_partials<float>, grid, block, 0, stream, static_cast<const float*>(partial), cut.chunks, rows, dims,
                grad_shift, sizes->shift_type);
}

}  // extern "C"
