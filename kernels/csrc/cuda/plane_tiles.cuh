// Planes of row-major images in shared memory: how they come there, and how a thread walks down its columns.
#pragma once

#include "launch.cuh"
#include "plane_tiles.h"
#include "window.cuh"

namespace asl::cuda {

// Where a block's planes lie.
struct PlanePlace {
  int64_t image;
  int plane, planes;  // the first, and how many exist
  int y, rows;        // output rows

  __device__ __forceinline__ PlanePlace(const PlaneTiles& tiles, unsigned number) {
    const unsigned group = number / tiles.bands;
    y = static_cast<int>(number - group * tiles.bands) * tiles.rows;
    rows = min(tiles.rows, tiles.height - y);
    image = group / tiles.groups;
    plane = static_cast<int>(group % tiles.groups) * tiles.group;
    planes = min(tiles.group, tiles.planes - plane);
  }
};

// Elements [first, last) of a tensor of `total`, as they lie in shared memory: at the same phase of 16 bytes.
template <typename T>
struct Range {
  const char* from;  // the chunk that holds the first element
  int phase;         // bytes of it before that element
  int chunks;

  __device__ __forceinline__ Range(const T* tensor, int64_t first, int64_t count) {
    const char* start = reinterpret_cast<const char*>(tensor + first);
    phase = static_cast<int>(reinterpret_cast<uintptr_t>(start) % 16);
    from = start - phase;
    chunks = (phase + static_cast<int>(count * sizeof(T)) + 15) / 16;
  }
};

// Starts copying a range of a tensor of `total` elements; `worker` of `workers` threads. Chunks that the tensor's ends
// cut off come by themselves.
template <typename T>
__device__ __forceinline__ void copy_range(char* to, const Range<T>& range, const T* tensor, int64_t total, int worker,
                                           int workers) {
  const char *begin = reinterpret_cast<const char*>(tensor), *end = reinterpret_cast<const char*>(tensor + total);
  const int first = range.from < begin ? 1 : 0;
  const int last = range.chunks - (range.from + static_cast<int64_t>(range.chunks) * 16 > end ? 1 : 0);
#pragma unroll 4
  for (int i = first + worker; i < last; i += workers) cp_async<16>(to + i * 16, range.from + i * 16, true);
  const auto piece = [&](int chunk) {
    const int byte = chunk * 16 + worker * static_cast<int>(sizeof(T));
    const char* from = range.from + byte;
    if (worker < static_cast<int>(16 / sizeof(T)) && from >= begin && from < end) {
      *reinterpret_cast<T*>(to + byte) = *reinterpret_cast<const T*>(from);
    }
  };
  if (first == 1) piece(0);
  if (last < range.chunks && last >= first) piece(last);
}

// Copies a result to `count` elements of a tensor from `first` on, where it belongs; by all threads of the block.
template <typename T>
__device__ __forceinline__ void write_range(T* to, int64_t count, const char* from, int phase) {
  constexpr int kSize = sizeof(T);
  const int bytes = static_cast<int>(count) * kSize, head = min(phase == 0 ? 0 : 16 - phase, bytes);
  char* const out = reinterpret_cast<char*>(to);
  from += phase;
  const int whole = (bytes - head) / 16, tail = head + whole * 16;
#pragma unroll 4
  for (int i = threadIdx.x; i < whole; i += blockDim.x) {
    *reinterpret_cast<uint4*>(out + head + i * 16) = *reinterpret_cast<const uint4*>(from + head + i * 16);
  }
  const int mine = static_cast<int>(threadIdx.x) * kSize;
  if (mine < head) *reinterpret_cast<T*>(out + mine) = *reinterpret_cast<const T*>(from + mine);
  if (tail + mine < bytes) *reinterpret_cast<T*>(out + tail + mine) = *reinterpret_cast<const T*>(from + tail + mine);
}

// The input rows [top, bottom) that a block needs of a plane whose taps start at row y and are `taps` + 1: all of them,
// or those of its band.
struct BandRows {
  int top, bottom;

  __device__ __forceinline__ BandRows(const PlaneTiles& tiles, const PlanePlace& place, int y, int taps, int height) {
    top = tiles.bands == 1 ? 0 : min(max(place.y + y, 0), height);
    bottom = tiles.bands == 1 ? height : max(min(place.y + place.rows + y + taps, height), top);
  }
};

// An offset along an axis, or one nearer to the image that reads as little: nothing. Then no product leaves 32 bits.
__device__ __forceinline__ int near_image(int offset, int out_size, int in_size) {
  return min(max(offset, -(out_size + kStrip + 4)), in_size);
}

// Starts copying the input of a block's planes. Which they are follows from the block's number (`known`: they lie
// together), or from `channel` and `y` of the table's entries. After a barrier, `at` says where pixel (0, 0) of each is.
template <typename T, typename Entry>
__device__ __forceinline__ void copy_planes(char* shared, const T* in, int planes, int height, int width, int64_t batch,
                                            const PlaneTiles& tiles, const PlanePlace& place, bool known, int taps,
                                            const Entry* table, int* at) {
  const int64_t pixels = static_cast<int64_t>(height) * width, total = batch * planes * pixels;
  constexpr int kSize = sizeof(T);
  if (known) {
    const Range<T> range(in, (place.image * planes + place.plane) * pixels, place.planes * pixels);
    copy_range(shared, range, in, total, threadIdx.x, blockDim.x);
    for (int g = threadIdx.x; g < place.planes; g += blockDim.x) at[g] = range.phase + g * static_cast<int>(pixels) * kSize;
    return;
  }
  const int lane = threadIdx.x % 32;
  for (int g = threadIdx.x / 32; g < place.planes; g += blockDim.x / 32) {
    const BandRows rows(tiles, place, table[g].y, taps, height);
    if (table[g].channel < 0 || rows.bottom <= rows.top) {
      if (lane == 0) at[g] = 0;
      continue;
    }
    const int64_t first = (place.image * planes + table[g].channel) * pixels + static_cast<int64_t>(rows.top) * width;
    const Range<T> range(in, first, static_cast<int64_t>(rows.bottom - rows.top) * width);
    copy_range(shared + g * tiles.pitch, range, in, total, lane, 32);
    if (lane == 0) at[g] = g * tiles.pitch + range.phase - rows.top * width * kSize;
  }
}

// A thread's columns of one plane in shared memory: kColumns neighbours and the pixels after them, row by row.
template <typename T, bool PAIRS>
struct Columns {
  static constexpr int kColumns = PAIRS ? 2 : 1;
  const char* at;  // the first tap of the first row
  int step, y, height, skip;
  bool first, second;  // whether the two words (of pairs) or pixels lie inside the image

  // `plane`: pixel (0, 0) of the image; `x`, `y`: of the first tap.
  __device__ __forceinline__ Columns(const char* plane, int y, int x, int height, int width)
      : y(y), height(height) {
    skip = PAIRS ? x & 1 : 0;
    const int column = x - skip;
    first = within(column, width);
    second = within(column + kColumns, width);
    step = width * static_cast<int>(sizeof(T));
    at = plane + (y * width + column) * static_cast<int>(sizeof(T));
  }

  // Row i from the first tap's on; zeros outside the image. With INSIDE no row lies outside.
  template <bool INSIDE>
  __device__ __forceinline__ void read(int i, compute_t<T> (&tap)[kColumns + 1]) const {
    const bool inside = INSIDE || within(y + i, height);
    const char* row = at + i * step;
    if constexpr (PAIRS) {
      const unsigned one = inside && first ? *reinterpret_cast<const unsigned*>(row) : 0u;
      const unsigned two = inside && second ? *reinterpret_cast<const unsigned*>(row + 4) : 0u;
      float pair[2], rest[2];
      unpack(__funnelshift_r(one, two, skip * 16), pair, static_cast<const T*>(nullptr));
      unpack(two >> skip * 16, rest, static_cast<const T*>(nullptr));
      tap[0] = pair[0];
      tap[1] = pair[1];
      tap[2] = rest[0];
    } else {
      tap[0] = inside && first ? widened(*reinterpret_cast<const T*>(row)) : compute_t<T>(0);
      tap[1] = inside && second ? widened(*reinterpret_cast<const T*>(row + sizeof(T))) : compute_t<T>(0);
    }
  }
};

// What lies pixel by pixel, in shared memory: a thread's columns of one row.
template <typename T, bool PAIRS>
__device__ __forceinline__ void read_beside(const char* at, compute_t<T> (&value)[PAIRS ? 2 : 1]) {
  if constexpr (PAIRS) {
    unpack(*reinterpret_cast<const unsigned*>(at), value, static_cast<const T*>(nullptr));
  } else {
    value[0] = widened(*reinterpret_cast<const T*>(at));
  }
}
template <typename T, bool PAIRS>
__device__ __forceinline__ void write_beside(char* at, const compute_t<T> (&value)[PAIRS ? 2 : 1]) {
  Pack<T, PAIRS ? 2 : 1> pack;
#pragma unroll
  for (int i = 0; i < (PAIRS ? 2 : 1); ++i) pack.at[i] = narrowed<T>(value[i]);
  *reinterpret_cast<Pack<T, PAIRS ? 2 : 1>*>(at) = pack;
}

}  // namespace asl::cuda
