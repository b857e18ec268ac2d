// A tile of an image with its channels last, in shared memory: a line of 128 bytes a pixel, zeros outside the image.
//
// Every channel is shifted by its own offset, so neighbours in memory are not read together. In shared memory a lane
// reads its own bank whatever the offsets are; from global memory each of a warp's lanes would ask for another line.
#pragma once

#include "gather.h"
#include "launch.cuh"

namespace asl::cuda {

constexpr int kLineBytes = 128, kChunkBytes = 16, kChunks = kLineBytes / kChunkBytes;
constexpr int kTileThreads = 256, kTileWarps = kTileThreads / 32;
constexpr int kTileBlocks = 4;    // on a multiprocessor: while one waits for its pixels, others work
constexpr int kTileLines = 440;   // with what the system takes of each block, four fit into 227 KB
constexpr int kTileRun = 8;       // output pixels along x that a warp works on at once

// How images are cut: a block has the output pixels of a tile in the channels of a line.
struct PixelTiles {
  int batch, height, width;  // in output pixels; `batch` images
  int images, rows, columns;  // of a tile
  int tiles_y, tiles_x, groups, slabs;
  int lines;
  int64_t blocks;
};

// Two images of one op: one is read through taps, the other lies pixel by pixel beside the output (or is it).
struct PixelImages {
  const void *in, *out;
  int in_planes, out_planes;
  const int *in_size, *out_size;  // [3]
};

// False where the tiles would not do: strides, three axes, lines that 16 bytes do not divide, or sizes past 32 bits.
bool plan_pixel_tiles(const Problem& problem, const PixelImages& images, int64_t batch, int type, PixelTiles* tiles);

// Where a block's tile lies, and how much of it exists.
struct TilePlace {
  int slab, image, y, x;
  int images, rows, columns;

  __device__ __forceinline__ TilePlace(const PixelTiles& tiles, unsigned number) {
    slab = static_cast<int>(number % tiles.slabs);
    number /= tiles.slabs;
    x = static_cast<int>(number % tiles.tiles_x) * tiles.columns;
    number /= tiles.tiles_x;
    y = static_cast<int>(number % tiles.tiles_y) * tiles.rows;
    image = static_cast<int>(number / tiles.tiles_y) * tiles.images;
    images = min(tiles.images, tiles.batch - image);
    rows = min(tiles.rows, tiles.height - y);
    columns = min(tiles.columns, tiles.width - x);
  }
};

// The pixels that a tile's taps lie in, relative to its first output pixel, and the run of channels that is read.
struct PixelBox {
  int y, x, height, width, channel;
  bool fits;

  // `low` and `high` of this lane's taps, both inclusive, as (y, x, channel); high < low where it has none.
  __device__ __forceinline__ PixelBox(const TilePlace& place, const int (&low)[3], const int (&high)[3], int channels,
                                      int line_channels, int lines) {
    y = warp_min(low[0]);
    x = warp_min(low[1]);
    channel = warp_min(low[2]) / per_chunk(line_channels) * per_chunk(line_channels);
    const int to_y = warp_max(high[0]), to_x = warp_max(high[1]), to_channel = warp_max(high[2]);
    const bool any = to_y >= y;
    if (!any) y = x = channel = 0;
    // Offsets end at 1e9, so that the sums stay within 32 bits.
    height = place.rows + (any ? to_y - y : 0);
    width = place.columns + (any ? to_x - x : 0);
    fits = height < lines && width < lines && place.images * height * width + kTileRun <= lines &&
           (!any || (to_channel - channel < line_channels && channel < channels));
  }
  static __device__ __forceinline__ int per_chunk(int line_channels) { return line_channels / kChunks; }
};

// Starts copying the box into `stage`; all is there after cp_async_wait() and a barrier. Runs of pixels that are cut off
// by the tile's end look at most kTileRun pixels further, which are zeros.
template <typename T>
__device__ __forceinline__ void stage_pixels(const void* image, const int (&size)[3], int channels,
                                             const TilePlace& place, const PixelBox& box, char* stage) {
  constexpr int kPerChunk = kChunkBytes / sizeof(T), kTogether = 32 / kChunks;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, chunk = lane % kChunks;
  const int chunks = channels / kPerChunk, first_chunk = box.channel / kPerChunk + chunk;
  const int height = size[1], width = size[2], count = place.images * box.height * box.width + kTileRun;
  const unsigned per_width = reciprocal(box.width), per_height = reciprocal(box.height);
  const char* from = static_cast<const char*>(image) +
                     (static_cast<int64_t>(place.image) * height * width * chunks + first_chunk) * kChunkBytes;
  // Each lane works out one pixel's place, then the lanes copy four pixels at a time.
  for (int first = warp * 32; first < count; first += kTileThreads) {
    const int line = divided(first + lane, per_width), at_image = divided(line, per_height);
    const int x = first + lane - line * box.width + box.x + place.x, y = line - at_image * box.height + box.y + place.y;
    const bool exists = at_image < place.images && within(y, height) && within(x, width);
    const int mine = exists ? ((at_image * height + y) * width + x) * chunks : -1;
    char* to = stage + (first + lane / kChunks) * kLineBytes + chunk * kChunkBytes;
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
      const int offset = __shfl_sync(0xffffffffu, mine, i * kTogether + lane / kChunks);
      if (first + i * kTogether + lane / kChunks >= count) continue;
      if (offset >= 0 && first_chunk < chunks) {
        cp_async<kChunkBytes>(to + i * kTogether * kLineBytes, from + static_cast<int64_t>(offset) * kChunkBytes, true);
      } else {
        *reinterpret_cast<uint4*>(to + i * kTogether * kLineBytes) = make_uint4(0, 0, 0, 0);
      }
    }
  }
  cp_async_commit();
}

// A warp's runs of output pixels, numbered along x, y and images.
struct TileRuns {
  int across, count;
  unsigned per_across, per_rows;

  __device__ __forceinline__ explicit TileRuns(const TilePlace& place) {
    across = (place.columns + kTileRun - 1) / kTileRun;
    count = across * place.rows * place.images;
    per_across = reciprocal(across);
    per_rows = reciprocal(place.rows);
  }
  __device__ __forceinline__ void at(const TilePlace& place, int number, int& image, int& y, int& x) const {
    const int row = divided(number, per_across);
    x = (number - row * across) * kTileRun;
    image = divided(row, per_rows);
    y = row - image * place.rows;
  }
};

}  // namespace asl::cuda
