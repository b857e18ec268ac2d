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
// Blocks on a multiprocessor: while one waits for its pixels, others work. As many as there is shared memory for, and
// registers.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr int kTileBlocks = 2;
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
constexpr int kTileBlocks = 3;
#else
constexpr int kTileBlocks = 4;
#endif
constexpr int kTileLines = 440;   // with what the system takes of each block, four fit into 228 KB
constexpr int kTileRun = 8;       // output pixels along x that a warp works on at once

// How images are cut: a block has the output pixels of a tile in the channels of a line.
struct PixelTiles {
  int batch, height, width;   // in output pixels; `batch` images
  int images, rows, columns;  // of a tile
  int tiles_y, tiles_x, groups, slabs;
  int across, runs;  // of a tile: runs in a row, and all
  int lines;
  unsigned per_slabs, per_tiles_x, per_tiles_y, per_across, per_rows;  // for division by multiplication
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

  __device__ __forceinline__ TilePlace(const PixelTiles& tiles, int number) {
    const int tile = divided(number, tiles.per_slabs), line = divided(tile, tiles.per_tiles_x);
    const int group = divided(line, tiles.per_tiles_y);
    slab = number - tile * tiles.slabs;
    x = (tile - line * tiles.tiles_x) * tiles.columns;
    y = (line - group * tiles.tiles_y) * tiles.rows;
    image = group * tiles.images;
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
  const int height = size[1], width = size[2], rows = place.images * box.height;
  const unsigned per_height = reciprocal(box.height);
  const char* base = static_cast<const char*>(image);
  const int left = box.x + place.x + lane / kChunks, top = box.y + place.y;
  // A warp copies a row of the box, four pixels at a time.
  for (int row = warp; row < rows; row += kTileWarps) {
    const int at_image = divided(row, per_height), y = row - at_image * box.height + top;
    const bool exists = within(y, height) && first_chunk < chunks;
    const int64_t pixel = (static_cast<int64_t>(place.image + at_image) * height + y) * width + left;
    const char* from = base + (pixel * chunks + first_chunk) * kChunkBytes;
    char* to = stage + (row * box.width + lane / kChunks) * kLineBytes + chunk * kChunkBytes;
    const int64_t step = static_cast<int64_t>(kTogether) * chunks * kChunkBytes;
#pragma unroll 2
    for (int x = lane / kChunks; x < box.width; x += kTogether) {
      const bool valid = exists && within(x - lane / kChunks + left, width);
      cp_async<kChunkBytes>(to, valid ? from : base, valid);
      from += step;
      to += kTogether * kLineBytes;
    }
  }
  if (warp == kTileWarps - 1) {
    char* end = stage + rows * box.width * kLineBytes;
    for (int i = lane; i < kTileRun * kChunks; i += 32) {
      *reinterpret_cast<uint4*>(end + i * kChunkBytes) = make_uint4(0, 0, 0, 0);
    }
  }
  cp_async_commit();
}

// A warp's run of output pixels, numbered along x, y and images. It may not exist where the tile is cut off.
struct TileRun {
  int image, y, x, count;

  __device__ __forceinline__ TileRun(const PixelTiles& tiles, const TilePlace& place, int number) {
    const int row = divided(number, tiles.per_across);
    x = (number - row * tiles.across) * kTileRun;
    image = divided(row, tiles.per_rows);
    y = row - image * tiles.rows;
    const bool exists = number < tiles.runs && image < place.images && y < place.rows;
    count = exists ? min(place.columns - x, kTileRun) : 0;
  }
};

}  // namespace asl::cuda
