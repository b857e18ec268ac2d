// The rows of a slab as shared memory holds them, and the box of input pixels that they read.
#pragma once

#include "numeric.cuh"
#include "pointwise.h"
#include "pointwise_element.cuh"

namespace asl::cuda::pointwise {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kPatch = 4, kPatchPixels = kPatch * kPatch;

// A block's part of the output. Its warps lie kDown by kAcross over the product, 32 pixels each; each samples
// kPatchesEach patches of 4 x 4 pixels, or kRows lines of one. Many samples to a warp spread what a slab costs besides.
template <int PIXELS, int COLUMNS>
struct Tile {
  static constexpr int kPixels = PIXELS, kColumns = COLUMNS;
  // On a multiprocessor, as many as there are registers for.
  static constexpr int kBlocks = blocks_of(PIXELS, COLUMNS);
  static constexpr int kPatches = PIXELS / kPatchPixels;
  static constexpr int kPatchesEach = kPatches > kWarps ? kPatches / kWarps : 1;
  static constexpr int kWarpsEach = kPatches < kWarps ? kWarps / kPatches : 1, kRows = kPatch / kWarpsEach;
  static constexpr int kLines = kPatchesEach * kRows * kPatch;  // of the left operand, for a warp
  static constexpr int kDown = PIXELS / 32, kAcross = kWarps / kDown, kWide = COLUMNS / kAcross;
};

// How a slab's input reaches the sampling threads.
enum class Way : int {
  channels,  // the box of pixels with one run of channels, 16 bytes at a time
  rows,      // the box of pixels with one channel for each row, gathered
  direct,    // nothing is staged: every tap comes from global memory
};

// One slab's input box; its pixels are numbered row by row, image after image.
struct __align__(16) Box {
  Way way;
  int height, width;  // of the pixels that one image's part of the tile reads
  int slots;          // pixels of all images, and those past the end that masked taps may touch
  int y, x;           // of the lowest tap, relative to the output pixel times the stride
  int channel;        // the first of the run of channels
  unsigned per_width, per_height;  // for division by multiplication
  int padding[3];
};
static_assert(sizeof(Box) == kBoxBytes);

// A row's bilinear sample: `offset` is its first tap's in the stage, in bytes from the box's corner.
struct __align__(16) Row {
  float right, below;  // fractions
  int offset;
  int channel;  // -1 past K
};

struct Table {
  Row* row;
  int2* whole;  // (x, y) of the first tap, relative to the output pixel times the stride
  Box* box;
};

template <typename S, typename A>
__device__ __forceinline__ void split(S shift, int* whole, A* fraction) {
  // A shift that is no number makes its row's outputs no numbers: a kernel cannot raise.
  if (!(shift - shift == S(0))) {
    *whole = 0;
    *fraction = static_cast<A>(shift - shift);
    return;
  }
  shift = min(max(shift, S(-1e9)), S(1e9));
  const S below = floor(shift);
  const A rest = static_cast<A>(shift - below);
  *whole = static_cast<int>(below) + (rest >= A(1));
  *fraction = rest >= A(1) ? A(0) : rest;
}

template <typename A>
__device__ __forceinline__ void read_shift(const PointwiseProblem& problem, int64_t at, int* whole, A* fraction) {
  switch (problem.shift_type) {
    case Real::float32: return split(static_cast<const float*>(problem.shift)[at], whole, fraction);
    case Real::float64: return split(static_cast<const double*>(problem.shift)[at], whole, fraction);
    case Real::bfloat16:
      return split(Bfloat16::widen(static_cast<const uint16_t*>(problem.shift)[at]), whole, fraction);
    default: return split(Float16::widen(static_cast<const uint16_t*>(problem.shift)[at]), whole, fraction);
  }
}

// Whether x can be read in whole chunks.
template <typename E>
__device__ __forceinline__ bool whole_chunks(const void* base, int64_t line_elements) {
  return reinterpret_cast<uintptr_t>(base) % kChunk == 0 && line_elements % kPerChunk<E> == 0;
}

// One warp fills the slab's part of the table; `k` is the slab's first row, `at` its place in the table.
template <typename E>
__device__ void describe_slab(const PointwiseProblem& problem, const PointwiseTiles& tiles, const Table& table, int k,
                              int at, int lane) {
  constexpr int kFar = 2000000000;
  int low_y = kFar, low_x = kFar, low_channel = kFar, high_y = -kFar, high_x = -kFar, high_channel = -kFar;
  Row row[E::kLaneRows];
  int2 whole[E::kLaneRows];
#pragma unroll
  for (int i = 0; i < E::kLaneRows; ++i) {
    const int number = k + lane * E::kLaneRows + i;
    row[i] = {0.0f, 0.0f, 0, -1};
    whole[i] = make_int2(0, 0);
    if (number < problem.rows) {
      const int64_t axes = problem.axes;
      read_shift(problem, number * axes + axes - 1, &whole[i].x, &row[i].right);
      if (axes > 1) read_shift(problem, number * axes, &whole[i].y, &row[i].below);
      const int64_t channel = problem.source == nullptr ? number : problem.source[number];
      const bool exists = channel >= 0 && channel < problem.channels;
      if (!exists) row[i].right = __uint_as_float(0x7fffffffu);
      row[i].channel = exists ? static_cast<int>(channel) : 0;
      low_y = min(low_y, whole[i].y);
      low_x = min(low_x, whole[i].x);
      low_channel = min(low_channel, row[i].channel);
      high_y = max(high_y, whole[i].y + (row[i].below != 0.0f));
      high_x = max(high_x, whole[i].x + (row[i].right != 0.0f));
      high_channel = max(high_channel, row[i].channel);
    }
  }
  low_y = warp_min(low_y);
  low_x = warp_min(low_x);
  low_channel = warp_min(low_channel);
  high_y = warp_max(high_y);
  high_x = warp_max(high_x);
  high_channel = warp_max(high_channel);
  const int64_t height = int64_t{kPatch * tiles.patch_rows - 1} * tiles.stride_y + 1 + high_y - low_y;
  const int64_t width = int64_t{kPatch * tiles.patch_columns - 1} * tiles.stride_x + 1 + high_x - low_x;
  Box box{};
  box.y = low_y;
  box.x = low_x;
  box.channel = low_channel / kPerChunk<E> * kPerChunk<E>;
  // Both factors are below 2^32, and slots is small.
  if (height > tiles.slots || width > tiles.slots || tiles.images * height * width + width + 1 > tiles.slots) {
    box.way = Way::direct;
  } else {
    const bool run = problem.channels_last && high_channel - box.channel < kSlab<E> &&
                     whole_chunks<E>(problem.x, problem.channels);
    box.way = run ? Way::channels : Way::rows;
    box.height = static_cast<int>(height);
    box.width = static_cast<int>(width);
    box.slots = static_cast<int>(tiles.images * height * width + width + 1);
    box.per_width = reciprocal(box.width);
    box.per_height = reciprocal(box.height);
  }
#pragma unroll
  for (int i = 0; i < E::kLaneRows; ++i) {
    const int within = lane * E::kLaneRows + i;
    if (row[i].channel >= 0 && box.way != Way::direct) {
      const int element = box.way == Way::channels ? row[i].channel - box.channel : within;
      row[i].offset = ((whole[i].y - low_y) * box.width + whole[i].x - low_x) * kLine + element * E::kBytes;
    }
    table.row[at * kSlab<E> + within] = row[i];
    table.whole[at * kSlab<E> + within] = whole[i];
  }
  if (lane == 0) table.box[at] = box;
}

}  // namespace asl::cuda::pointwise
