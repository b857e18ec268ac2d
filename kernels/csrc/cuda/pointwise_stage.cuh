// Brings a slab's weights and its box of input pixels into shared memory.
#pragma once

#include "pointwise_table.cuh"

namespace asl::cuda::pointwise {

// Where a block's tile lies.
struct Place {
  int image;         // the first
  int out_y, out_x;  // of the tile's first output pixel
  int column;        // the first output channel
};

// Element offset of channel 0 of an input pixel; `image` counts from the tile's first.
__device__ __forceinline__ int64_t pixel_offset(const PointwiseProblem& problem, const Place& place, int image, int y,
                                                int x) {
  const int height = static_cast<int>(problem.size[1]), width = static_cast<int>(problem.size[2]);
  const int channels = static_cast<int>(problem.channels);
  const int64_t whole = int64_t{height} * width * channels, pixel = int64_t{y} * width + x;
  return (int64_t{place.image} + image) * whole + (problem.channels_last ? pixel * channels : pixel);
}

// The input pixel in a slot of the box; false where it lies outside the image, the batch or the box.
__device__ __forceinline__ bool slot_pixel(const PointwiseProblem& problem, const PointwiseTiles& tiles,
                                           const Place& place, const Box& box, int slot, int64_t* offset) {
  const int line = divided(slot, box.per_width), image = divided(line, box.per_height);
  const int x = slot - line * box.width + box.x + place.out_x * static_cast<int>(problem.stride[2]);
  const int y = line - image * box.height + box.y + place.out_y * static_cast<int>(problem.stride[1]);
  const bool inside = image < tiles.images && place.image + image < problem.batch && y >= 0 && y < problem.size[1] &&
                      x >= 0 && x < problem.size[2];
  *offset = pixel_offset(problem, place, image, y, x);
  return inside;
}

// Every slot's line holds the channels [box.channel, box.channel + slab), or zeros.
template <typename E>
__device__ __forceinline__ void stage_channels(const PointwiseProblem& problem, const PointwiseTiles& tiles,
                                               const Place& place, const Box& box, char* stage) {
  constexpr int kChunks = kLine / kChunk, kTogether = 32 / kChunks;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, chunk = lane % kChunks;
  const int channel = box.channel + chunk * kPerChunk<E>;
  const bool exists = channel < problem.channels;
  const auto* x = static_cast<const typename E::Stored*>(problem.x);
  // Each lane works out one slot's address, then the lanes copy four slots at a time, 128 bytes each.
  for (int first = warp * 32; first < box.slots; first += kThreads) {
    int64_t mine;
    if (!slot_pixel(problem, tiles, place, box, first + lane, &mine)) mine = -1;
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
      const int within = i * kTogether + lane / kChunks;
      const int64_t offset = __shfl_sync(0xffffffffu, mine, within);
      const bool valid = offset >= 0 && exists;
      if (first + within < box.slots) {
        cp_async<kChunk>(stage + (first + within) * kLine + chunk * kChunk, valid ? x + offset + channel : x, valid);
      }
    }
  }
}

template <typename E>
__device__ __forceinline__ uint32_t packed(const typename E::Stored (&value)[E::kLaneRows]) {
  if constexpr (E::kLaneRows == 2) {
    return value[0] | static_cast<uint32_t>(value[1]) << 16;
  } else {
    return __float_as_uint(value[0]);
  }
}

// Every slot's line holds one element for each row of the slab, whatever channel it reads.
template <typename E>
__device__ __forceinline__ void stage_rows(const PointwiseProblem& problem, const PointwiseTiles& tiles,
                                           const Place& place, const Box& box, const int* channels, char* stage) {
  using Stored = typename E::Stored;
  const auto* x = static_cast<const Stored*>(problem.x);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  // Neighbouring lanes read neighbours in memory: rows of one pixel, or in planes pixels of one row.
  constexpr int kAlong = 8;
  const bool last = problem.channels_last;
  const int word = last ? lane : warp * (32 / kWarps) + lane / kAlong;
  const int first = last ? warp : lane % kAlong, step = last ? kWarps : kAlong;
  int64_t from[E::kLaneRows];
  for (int i = 0; i < E::kLaneRows; ++i) {
    const int64_t channel = channels[word * E::kLaneRows + i];
    from[i] = channel < 0 || last ? channel : channel * problem.size[1] * problem.size[2];
  }
#pragma unroll 4
  for (int slot = first; slot < box.slots; slot += step) {
    int64_t offset;
    const bool valid = slot_pixel(problem, tiles, place, box, slot, &offset);
    Stored value[E::kLaneRows];
    for (int i = 0; i < E::kLaneRows; ++i) value[i] = valid && from[i] >= 0 ? x[offset + from[i]] : Stored(0);
    *reinterpret_cast<uint32_t*>(stage + slot * kLine + word * 4) = packed<E>(value);
  }
}

// Line n of the tile holds weight[column + n, k .. k + slab), zero past the matrix.
template <typename E, int COLUMNS>
__device__ __forceinline__ void stage_weights(const PointwiseProblem& problem, int column, int k, char* tile) {
  using Stored = typename E::Stored;
  constexpr int kChunks = kLine / kChunk, kTogether = kThreads / kChunks;
  const int chunk = threadIdx.x % kChunks, first = threadIdx.x / kChunks;
  const int rows = static_cast<int>(problem.rows), row = k + chunk * kPerChunk<E>;
  const int exist = static_cast<int>(problem.out_channels) - column;
  const auto* weight = static_cast<const Stored*>(problem.weight);
  const auto* from = weight + int64_t{column + first} * rows + row;
  const int64_t step = int64_t{kTogether} * rows;
  if (whole_chunks<E>(weight, rows)) {
#pragma unroll
    for (int n = first; n < COLUMNS + first; n += kTogether) {
      const bool valid = n < exist && row < rows;
      cp_async<kChunk>(tile + swizzled(n, chunk * kChunk), valid ? from : weight, valid);
      from += step;
    }
    return;
  }
#pragma unroll 1
  for (int n = first; n < COLUMNS; n += kTogether) {
    union {
      Stored value[kPerChunk<E>];
      uint4 all;
    };
    for (int i = 0; i < kPerChunk<E>; ++i) value[i] = n < exist && row + i < rows ? from[i] : Stored(0);
    *reinterpret_cast<uint4*>(tile + swizzled(n, chunk * kChunk)) = all;
    from += step;
  }
}

}  // namespace asl::cuda::pointwise
