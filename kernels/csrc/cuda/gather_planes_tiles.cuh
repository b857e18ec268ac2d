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

template <typename T, bool PAIRS>
__global__ void __launch_bounds__(kPlaneThreads, 4) gather_plane_tiles(const Gather gather, const PlaneTiles tiles,
                                                                       int64_t batch) {
  using A = compute_t<T>;
  ASL_DYNAMIC_SHARED(char, shared);
  __shared__ PlaneRow<A> table[kMostPlanes];
  const PlanePlace place(tiles, blockIdx.x);
  const T* in = static_cast<const T*>(gather.in);
  const int height = gather.in_size[1], width = gather.in_size[2];
  const int64_t in_pixels = static_cast<int64_t>(height) * width, total = batch * gather.in_planes * in_pixels;
  char* const result = shared + tiles.group * tiles.pitch;

  const auto describe = [&] {
    for (int g = threadIdx.x; g < place.planes; g += blockDim.x) {
      Taps<A> taps;
      PlaneRow<A> row;
      row.channel = gather.entry(place.plane + g, taps);
      row.y = taps.base[1];
      row.x = taps.base[2];
      row.near_y = taps.near[1];
      row.far_y = taps.far[1];
      row.near_x = taps.near[2];
      row.far_x = taps.far[2];
      table[g] = row;
    }
  };
  // The input rows [top, bottom) that a block needs of a plane: all of them, or those of its band.
  const auto top_of = [&](int y) { return tiles.bands == 1 ? 0 : min(max(place.y + y, 0), height); };
  const auto bottom_of = [&](int y) { return tiles.bands == 1 ? height : max(min(place.y + place.rows + y + 1, height), 0); };
  // Which planes and rows these are need not be read first where they follow from the block's number.
  const bool known = tiles.bands == 1 && (gather.adjoint || gather.problem.source == nullptr);
  if (!known) {
    describe();
    __syncthreads();
  }
  const int slot = tiles.pitch / 16;
  for (int i = threadIdx.x; i < place.planes * slot; i += blockDim.x) {
    const int g = divided(i, tiles.per_pitch), chunk = i - g * slot;
    const int channel = known ? place.plane + g : table[g].channel;
    if (channel < 0) continue;
    const int y = known ? 0 : table[g].y, top = top_of(y), rows = bottom_of(y) - top;
    const int64_t first = (place.image * gather.in_planes + channel) * in_pixels + static_cast<int64_t>(top) * width;
    const Range<T> range(in, first, rows > 0 ? static_cast<int64_t>(rows) * width : 0);
    if (rows > 0 && chunk < range.chunks) {
      copy_chunk(shared + g * tiles.pitch + chunk * 16, range.from + chunk * 16, in, total);
    }
  }
  cp_async_commit();
  if (known) describe();
  cp_async_wait<0>();
  __syncthreads();

  T* const out = static_cast<T*>(gather.out);
  const int64_t out_pixels = static_cast<int64_t>(tiles.height) * tiles.width;
  const int64_t out_first = (place.image * tiles.planes + place.plane) * out_pixels + static_cast<int64_t>(place.y) * tiles.width;
  const int64_t out_count = tiles.group == 1 ? static_cast<int64_t>(place.rows) * tiles.width : place.planes * out_pixels;
  const Range<T> to(out, out_first, out_count);
  for (int unit = threadIdx.x; unit < place.planes * tiles.units; unit += blockDim.x) {
    const int g = divided(unit, tiles.per_units), within_plane = unit - g * tiles.units;
    const int strip = divided(within_plane, tiles.per_across);
    const int x = (within_plane - strip * tiles.across) * (PAIRS ? 2 : 1), y = strip * kStrip;
    const PlaneRow<A> row = table[g];
    char* write = result + to.phase + ((g * place.rows + y) * tiles.width + x) * static_cast<int>(sizeof(T));
    const int step = tiles.width * static_cast<int>(sizeof(T));
    const int top = top_of(row.y);
    const int64_t first = (place.image * gather.in_planes + max(row.channel, 0)) * in_pixels + static_cast<int64_t>(top) * width;
    const Range<T> from(in, first, 0);
    const Columns<T, PAIRS> columns(shared + g * tiles.pitch + from.phase, top, place.y + y + row.y, x + row.x,
                                    row.channel < 0 ? 0 : height, width);
    const A unusable = row.channel < 0 && !gather.adjoint ? not_a_number<A>() : A(0);
    A before[PAIRS ? 2 : 1];
#pragma unroll
    for (int i = 0; i <= kStrip; ++i) {
      A tap[(PAIRS ? 2 : 1) + 1];
      columns.read(i, tap);
      A value[PAIRS ? 2 : 1];
#pragma unroll
      for (int j = 0; j < (PAIRS ? 2 : 1); ++j) {
        A across = row.near_x * tap[j];
        if (row.far_x != A(0)) across += row.far_x * tap[j + 1];
        if (i > 0) {
          value[j] = row.near_y * before[j] + unusable;
          if (row.far_y != A(0)) value[j] += row.far_y * across;
        }
        before[j] = across;
      }
      if (i > 0) {
        if (y + i <= place.rows) write_beside<T, PAIRS>(write, value);
        write += step;
      }
    }
  }
  __syncthreads();
  char* const begin = const_cast<char*>(to.from);
  const char *from = reinterpret_cast<const char*>(out + out_first), *end = from + out_count * sizeof(T);
  for (int i = threadIdx.x; i < to.chunks; i += blockDim.x) {
    char* at = begin + i * 16;
    if (at >= from && at + 16 <= end) {
      *reinterpret_cast<uint4*>(at) = *reinterpret_cast<const uint4*>(result + i * 16);
      continue;
    }
    for (int byte = 0; byte < 16; byte += sizeof(T)) {
      if (at + byte >= from && at + byte < end) {
        *reinterpret_cast<T*>(at + byte) = *reinterpret_cast<const T*>(result + i * 16 + byte);
      }
    }
  }
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
