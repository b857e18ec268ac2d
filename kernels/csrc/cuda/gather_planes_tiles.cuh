// Gathers row-major images at stride 1 through shared memory.
#pragma once

#include "gather.h"
#include "plane_tiles.cuh"

namespace asl::cuda {

template <typename A>
struct PlaneRow {
  int channel, y, x;
  A near_y, far_y, near_x, far_x;
};

// A strip of a thread's columns: kStrip output rows, of which `rows` exist.
template <typename T, bool PAIRS, bool INSIDE>
__device__ __forceinline__ void sample_strip(const PlaneRow<compute_t<T>>& row, const Columns<T, PAIRS>& columns,
                                             bool unusable, char* write, int step, int rows) {
  using A = compute_t<T>;
  constexpr int kColumns = PAIRS ? 2 : 1;
  A before[kColumns];
#pragma unroll
  for (int i = 0; i <= kStrip; ++i) {
    A tap[kColumns + 1], value[kColumns];
    columns.template read<INSIDE>(i, tap);
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
      A across = row.near_x * tap[j];
      if (row.far_x != A(0)) across += row.far_x * tap[j + 1];
      if (i > 0) {
        value[j] = row.near_y * before[j];
        if (row.far_y != A(0)) value[j] += row.far_y * across;
        if (!INSIDE && unusable) value[j] = not_a_number<A>();
      }
      before[j] = across;
    }
    if (i > 0) {
      if (i <= rows) write_beside<T, PAIRS>(write, value);
      write += step;
    }
  }
}

template <typename T, bool PAIRS>
__global__ void __launch_bounds__(kPlaneThreads, 4) gather_plane_tiles(const Gather gather, const PlaneTiles tiles,
                                                                       int64_t batch) {
  using A = compute_t<T>;
  constexpr int kSize = sizeof(T);
  ASL_DYNAMIC_SHARED(char, shared);
  __shared__ PlaneRow<A> table[kMostPlanes];
  __shared__ int at[kMostPlanes];
  const PlanePlace place(tiles, blockIdx.x);
  const int height = gather.in_size[1], width = gather.in_size[2];
  const auto describe = [&] {
    for (int g = threadIdx.x; g < place.planes; g += blockDim.x) {
      int base[2];
      A fraction[2];
      const int k = place.plane + g, channel = read_plane_row(gather.problem, k, base, fraction);
      Taps<A> taps;
      taps.set(0, base[0], fraction[0], gather.adjoint);
      taps.set(1, base[1], fraction[1], gather.adjoint);
      const int y = near_image(taps.base[0], tiles.height, height), x = near_image(taps.base[1], tiles.width, width);
      table[g] = {gather.adjoint && channel >= 0 ? k : channel, y, x, taps.near[0], taps.far[0], taps.near[1], taps.far[1]};
    }
  };
  // Where planes and rows follow from the block's number, their copies need not wait for the shifts.
  const bool known = tiles.bands == 1 && (gather.adjoint || gather.problem.source == nullptr);
  if (!known) {
    describe();
    __syncthreads();
  }
  copy_planes(shared, static_cast<const T*>(gather.in), gather.in_planes, height, width, batch, tiles, place, known, 1,
              table, at);
  cp_async_commit();
  if (known) describe();
  cp_async_wait<0>();
  __syncthreads();

  const int64_t pixels = static_cast<int64_t>(tiles.height) * tiles.width;
  T* const out = static_cast<T*>(gather.out) + (place.image * tiles.planes + place.plane) * pixels +
                 static_cast<int64_t>(place.y) * tiles.width;
  char* const result = shared + tiles.group * tiles.pitch;
  const int phase = static_cast<int>(reinterpret_cast<uintptr_t>(out) % 16), step = tiles.width * kSize;
  for (int unit = threadIdx.x; unit < place.planes * tiles.units; unit += blockDim.x) {
    const int g = divided(unit, tiles.per_units), within_plane = unit - g * tiles.units;
    const int strip = divided(within_plane, tiles.per_across);
    const int x = (within_plane - strip * tiles.across) * (PAIRS ? 2 : 1), y = strip * kStrip;
    const PlaneRow<A> row = table[g];
    char* write = result + phase + ((g * place.rows + y) * tiles.width + x) * kSize;
    // Of a band, rows past the last that it needs are not there.
    const int bottom = tiles.bands == 1 ? height : min(height, place.y + place.rows + row.y + 1);
    const Columns<T, PAIRS> columns(shared + at[g], place.y + y + row.y, x + row.x, row.channel < 0 ? 0 : bottom, width);
    if (columns.y >= 0 && columns.y + kStrip < columns.height && y + kStrip <= place.rows) {
      sample_strip<T, PAIRS, true>(row, columns, false, write, step, kStrip);
    } else {
      sample_strip<T, PAIRS, false>(row, columns, row.channel < 0 && !gather.adjoint, write, step, place.rows - y);
    }
  }
  __syncthreads();
  write_range(out, tiles.group == 1 ? static_cast<int64_t>(place.rows) * tiles.width : place.planes * pixels, result,
              phase);
}

// False where the images are not for this kernel.
template <typename T>
bool gather_planes_tiled(const Gather& gather, int64_t batch, int type, void* stream, const char** error) {
  PlaneTiles tiles;
  const PlaneImages images{gather.in,         gather.out,      gather.in_planes, gather.out_planes,
                           gather.in_size, gather.out_size, batch};
  if (gather.readers != nullptr || !plan_plane_tiles(gather.problem, images, type, 1, 0, &tiles)) return false;
  const auto start = [&](auto kernel) {
    return launch(kernel, dim3(static_cast<unsigned>(tiles.blocks)), dim3(static_cast<unsigned>(tiles.threads)),
                  static_cast<size_t>(tiles.group) * tiles.pitch + tiles.beside, stream, gather, tiles, batch);
  };
  if constexpr (sizeof(T) == 2) {
    if (tiles.pairs) {
      *error = start(gather_plane_tiles<T, true>);
      return true;
    }
  }
  *error = start(gather_plane_tiles<T, false>);
  return true;
}

}  // namespace asl::cuda
