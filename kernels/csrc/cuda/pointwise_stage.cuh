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
__device__ __forceinline__ int64_t pixel_offset(const PointwiseProblem& problem, const PointwiseTiles& tiles,
                                                const Place& place, int image, int y, int x) {
  const int64_t whole = int64_t{tiles.height} * tiles.width * tiles.channels, pixel = int64_t{y} * tiles.width + x;
  return (int64_t{place.image} + image) * whole + (problem.channels_last ? pixel * tiles.channels : pixel);
}

// The input pixel in a slot of the box; `exists` is false where it lies outside the image, the batch or the box.
struct SlotPixel {
  int image, y, x;
  bool exists;

  __device__ __forceinline__ SlotPixel(const PointwiseTiles& tiles, const Place& place, const Box& box, int slot) {
    const int line = divided(slot, box.per_width);
    image = divided(line, box.per_height);
    x = slot - line * box.width + box.x + place.out_x * tiles.stride_x;
    y = line - image * box.height + box.y + place.out_y * tiles.stride_y;
    // As unsigned numbers those below zero are too large as well.
    exists = image < min(tiles.images, tiles.batch - place.image) &&
             static_cast<unsigned>(y) < static_cast<unsigned>(tiles.height) &&
             static_cast<unsigned>(x) < static_cast<unsigned>(tiles.width);
  }
};

// Every slot's line holds the channels [box.channel, box.channel + slab), or zeros.
template <typename E>
__device__ __forceinline__ void stage_channels(const PointwiseProblem& problem, const PointwiseTiles& tiles,
                                               const Place& place, const Box& box, char* stage) {
  constexpr int kChunks = kLine / kChunk, kTogether = 32 / kChunks;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, chunk = lane % kChunks;
  const int height = tiles.height, width = tiles.width;
  const int chunks = tiles.channels / kPerChunk<E>, first_chunk = box.channel / kPerChunk<E> + chunk;
  const bool channel_exists = first_chunk < chunks;
  const char* from = static_cast<const char*>(problem.x) +
                     (int64_t{place.image} * height * width * chunks + first_chunk) * kChunk;
  // Each lane works out one slot's place, then the lanes copy four slots at a time, 128 bytes each. The stage has room
  // for whole groups of slots.
  for (int first = warp * kSlotGroup; first < box.slots; first += kWarps * kSlotGroup) {
    const SlotPixel pixel(tiles, place, box, first + lane);
    // In chunks from the group's first image: plan_pointwise() has made sure that they can be counted so.
    const int mine = pixel.exists ? ((pixel.image * height + pixel.y) * width + pixel.x) * chunks : -1;
    char* to = stage + (first + lane / kChunks) * kLine + chunk * kChunk;
#pragma unroll
    for (int i = 0; i < kSlotGroup / kTogether; ++i) {
      const int offset = __shfl_sync(0xffffffffu, mine, i * kTogether + lane / kChunks);
      if (offset >= 0 && channel_exists) {
        cp_async<kChunk>(to + i * kTogether * kLine, from + int64_t{offset} * kChunk, true);
      } else {
        *reinterpret_cast<uint4*>(to + i * kTogether * kLine) = make_uint4(0, 0, 0, 0);
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
                                           const Place& place, const Box& box, const Row* rows, char* stage) {
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
    const int64_t channel = rows[word * E::kLaneRows + i].channel;
    from[i] = channel < 0 || last ? channel : channel * problem.size[1] * problem.size[2];
  }
#pragma unroll 2
  for (int slot = first; slot < box.slots; slot += step) {
    const SlotPixel pixel(tiles, place, box, slot);
    const int64_t offset = pixel_offset(problem, tiles, place, pixel.image, pixel.y, pixel.x);
    Stored value[E::kLaneRows];
    for (int i = 0; i < E::kLaneRows; ++i) value[i] = pixel.exists && from[i] >= 0 ? x[offset + from[i]] : Stored(0);
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
      if (n < exist && row < rows) {
        cp_async<kChunk>(tile + swizzled(n, chunk * kChunk), from, true);
      } else {
        *reinterpret_cast<uint4*>(tile + swizzled(n, chunk * kChunk)) = make_uint4(0, 0, 0, 0);
      }
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
