// The shift gradient of row-major images at stride 1: x and the gradient come through shared memory.
#pragma once

#include "plane_tiles.cuh"
#include "slopes.h"
#include "tap_sums.cuh"

namespace asl::cuda {

template <typename A>
struct SlopeRow {
  int channel, y, x;  // of the first tap
  A below, right;     // fractions
};

// sums += gradient times pixel over a strip of a thread's columns, for two taps along each axis. With INSIDE all rows of
// the strip exist, and all that it reads.
template <typename T, bool PAIRS, bool INSIDE>
__device__ __forceinline__ void add_strip(TapSums<compute_t<T>>& sum, const Columns<T, PAIRS>& columns,
                                          const char* upstream, int step, int rows) {
  using A = compute_t<T>;
  constexpr int kColumns = PAIRS ? 2 : 1;
  A above[kColumns] = {};
#pragma unroll
  for (int i = 0; i <= kStrip; ++i) {
    if (!INSIDE && i > rows) break;
    A tap[kColumns + 1], here[kColumns] = {};
    columns.template read<INSIDE>(i, tap);
    const bool first = i < kStrip && (INSIDE || i < rows);
    if (first) read_beside<T, PAIRS>(upstream + i * step, here);
#pragma unroll
    for (int j = 0; j <= kColumns; ++j) {
      // A pixel of 0 adds nothing, whatever the gradient is: such are all that lie outside the image.
      const bool counts = tap[j] != A(0);
      if (j < kColumns && first && counts) sum.at[0][0] += here[j < kColumns ? j : 0] * tap[j];
      if (j > 0 && first && counts) sum.at[0][1] += here[j > 0 ? j - 1 : 0] * tap[j];
      if (j < kColumns && i > 0 && counts) sum.at[1][0] += above[j < kColumns ? j : 0] * tap[j];
      if (j > 0 && i > 0 && counts) sum.at[1][1] += above[j > 0 ? j - 1 : 0] * tap[j];
    }
#pragma unroll
    for (int j = 0; j < kColumns; ++j) above[j] = here[j];
  }
}

template <typename T, bool PAIRS>
__global__ void __launch_bounds__(kPlaneThreads, 3) slope_plane_tiles(const SlopeSums given, const PlaneTiles tiles,
                                                                      int64_t batch) {
  using A = compute_t<T>;
  constexpr int kColumns = PAIRS ? 2 : 1;
  ASL_DYNAMIC_SHARED(char, shared);
  __shared__ SlopeRow<A> table[kMostPlanes];
  __shared__ int at[kMostPlanes];
  const Problem& problem = given.problem;
  const PlanePlace place(tiles, blockIdx.x);
  const int height = problem.size[1], width = problem.size[2];
  char* const beside = shared + tiles.group * tiles.pitch;
  A* const sums = reinterpret_cast<A*>(beside + tiles.beside);  // [planes][units][2]
  const auto describe = [&] {
    for (int g = threadIdx.x; g < place.planes; g += blockDim.x) {
      int base[2];
      A fraction[2];
      const int channel = read_plane_row(problem, place.plane + g, base, fraction);
      // At a whole pixel the slope is the central difference, and the taps start one pixel earlier.
      const int y = near_image(base[0] - (fraction[0] == A(0)), tiles.height, height);
      const int x = near_image(base[1] - (fraction[1] == A(0)), tiles.width, width);
      table[g] = {channel, y, x, fraction[0], fraction[1]};
    }
  };
  // Where planes and rows follow from the block's number, their copies need not wait for the shifts.
  const bool known = tiles.bands == 1 && problem.source == nullptr;
  if (!known) {
    describe();
    __syncthreads();
  }
  copy_planes(shared, static_cast<const T*>(given.x), problem.channels, height, width, batch, tiles, place, known, 2,
              table, at);
  const int64_t pixels = static_cast<int64_t>(tiles.height) * tiles.width;
  const int64_t first = (place.image * tiles.planes + place.plane) * pixels + static_cast<int64_t>(place.y) * tiles.width;
  const T* const grad = static_cast<const T*>(given.grad);
  const Range<T> from(grad, first, tiles.group == 1 ? static_cast<int64_t>(place.rows) * tiles.width : place.planes * pixels);
  copy_range(beside, from, grad, batch * tiles.planes * pixels, threadIdx.x, blockDim.x);
  cp_async_commit();
  if (known) describe();
  cp_async_wait<0>();
  __syncthreads();

  for (int unit = threadIdx.x; unit < place.planes * tiles.units; unit += blockDim.x) {
    const int g = divided(unit, tiles.per_units), within_plane = unit - g * tiles.units;
    const int strip = divided(within_plane, tiles.per_across);
    const int x0 = (within_plane - strip * tiles.across) * kColumns, y0 = strip * kStrip;
    const SlopeRow<A> row = table[g];
    TapSums<A> sum;
    if (row.channel >= 0) {
      const char* plane = shared + at[g];
      const char* upstream = beside + from.phase + ((g * place.rows + y0) * tiles.width + x0) * static_cast<int>(sizeof(T));
      const int step = tiles.width * static_cast<int>(sizeof(T)), rows = min(kStrip, place.rows - y0);
      const int y = place.y + y0 + row.y, left = x0 + row.x;
      if (row.below != A(0) && row.right != A(0)) {
        const Columns<T, PAIRS> columns(plane, y, left, height, width);
        if (rows == kStrip && y >= 0 && y + kStrip < height) {
          add_strip<T, PAIRS, true>(sum, columns, upstream, step, kStrip);
        } else {
          add_strip<T, PAIRS, false>(sum, columns, upstream, step, rows);
        }
      } else {
        const int reach_y = row.below == A(0) ? 3 : 2, reach_x = row.right == A(0) ? 3 : 2;
#pragma unroll 1
        for (int i = 0; i < rows * kColumns; ++i) {
          const int down = i / kColumns, along = i % kColumns;
          const A g = widened(*reinterpret_cast<const T*>(upstream + down * step + along * static_cast<int>(sizeof(T))));
#pragma unroll
          for (int tap = 0; tap < 9; ++tap) {
            const int at_y = y + down + tap / 3, at_x = left + along + tap % 3;
            if (tap / 3 >= reach_y || tap % 3 >= reach_x || !within(at_y, height) || !within(at_x, width)) continue;
            const char* from_pixel = plane + (at_y * width + at_x) * static_cast<int>(sizeof(T));
            const A pixel = widened(*reinterpret_cast<const T*>(from_pixel));
            if (pixel != A(0)) sum.at[tap / 3][tap % 3] += g * pixel;
          }
        }
      }
    }
    A along_y, along_x;
    weigh(sum, row.below, row.right, along_y, along_x);
    sums[unit * 2] = along_y;
    sums[unit * 2 + 1] = along_x;
  }
  __syncthreads();
  // A warp for each plane and axis adds up the threads' sums, always in the same order.
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int item = warp; item < place.planes * 2; item += blockDim.x / 32) {
    const int g = item / 2;
    A sum = A(0);
    for (int unit = lane; unit < tiles.units; unit += 32) sum += sums[(g * tiles.units + unit) * 2 + item % 2];
#pragma unroll
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    if (lane != 0) continue;
    if (table[g].channel < 0) sum = not_a_number<A>();
    const int64_t chunk = place.image * tiles.bands + blockIdx.x % tiles.bands;
    static_cast<A*>(given.partial)[(chunk * problem.rows + place.plane + g) * 3 + 1 + item % 2] = sum;
  }
}

template <typename T>
const char* slope_planes_tiled(const SlopeSums& given, const PlaneTiles& tiles, int64_t batch, void* stream) {
  const size_t bytes = static_cast<size_t>(tiles.group) * (tiles.pitch + tiles.units * slope_bytes<T>()) + tiles.beside;
  const auto start = [&](auto kernel) {
    return launch(kernel, dim3(static_cast<unsigned>(tiles.blocks)), dim3(static_cast<unsigned>(tiles.threads)), bytes,
                  stream, given, tiles, batch);
  };
  if constexpr (sizeof(T) == 2) {
    if (tiles.pairs) return start(slope_plane_tiles<T, true>);
  }
  return start(slope_plane_tiles<T, false>);
}

}  // namespace asl::cuda
