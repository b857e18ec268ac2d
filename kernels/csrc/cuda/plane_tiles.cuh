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

// One chunk on its way; the tensor's first and last may be cut off by its ends.
template <typename T>
__device__ __forceinline__ void copy_chunk(char* to, const char* from, const T* tensor, int64_t total) {
  const char *begin = reinterpret_cast<const char*>(tensor), *end = reinterpret_cast<const char*>(tensor + total);
  if (from >= begin && from + 16 <= end) {
    cp_async<16>(to, from, true);
    return;
  }
  for (int i = 0; i < 16; i += sizeof(T)) {
    if (from + i >= begin && from + i < end) {
      *reinterpret_cast<T*>(to + i) = *reinterpret_cast<const T*>(from + i);
    }
  }
}

// A thread's columns of one plane in shared memory: kColumns neighbours and the pixels after them, row by row.
template <typename T, bool PAIRS>
struct Columns {
  static constexpr int kColumns = PAIRS ? 2 : 1;
  const char* at;  // the first tap of the first row
  int step, y, height, skip;
  bool first, second;  // whether the two words (of pairs) or pixels lie inside the image

  // `plane`: pixel (top, 0) of the image; `x`, `y`: of the first tap.
  __device__ __forceinline__ Columns(const char* plane, int top, int y, int x, int height, int width)
      : y(y), height(height) {
    skip = PAIRS ? x & 1 : 0;
    const int column = x - skip;
    first = within(column, width);
    second = within(column + kColumns, width);
    step = width * static_cast<int>(sizeof(T));
    at = plane + ((y - top) * width + column) * static_cast<int>(sizeof(T));
  }

  // Row i from the first tap's on; zeros outside the image.
  __device__ __forceinline__ void read(int i, compute_t<T> (&tap)[kColumns + 1]) const {
    const bool inside = within(y + i, height);
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
