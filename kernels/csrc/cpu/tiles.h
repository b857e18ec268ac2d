// The fused op on channels_last images, tile by tile: sixteen channels at a time are sampled into a small panel that
// stays in the first-level cache, and the panel is multiplied by the packed 1x1 weight straight into the output.
//
// Built once per instruction set, as loops.h is.
#pragma once

#include "plane.h"

namespace asl {

constexpr int64_t kBlock = 16;     // channels of a panel, and output channels of a packed weight, that lie together
constexpr int64_t kMostTaps = 12;  // offsets per axis that a block may have
constexpr int64_t kTile = 14;      // pixels of the largest tile

// One axis of a block: consecutive offsets, and per offset a weight for each row.
struct AxisTaps {
  int64_t first = 0;
  int64_t count = 0;
  float weight[kMostTaps + 1][kBlock];  // zero where a row does not read this offset; the last is spare
};

// How a block's rows lie among a pixel's channels.
enum class Access : int32_t {
  consecutive,  // row after row, channel after channel
  one_window,   // all within sixteen channels
  two_windows,  // within two such windows
  any,
};

// Sixteen rows. Bilinear taps are a product of the two axes: the y axis is summed once per column and reused along x.
struct ChannelBlock {
  AxisTaps y, x;
  int64_t present = 0;      // rows; the rest of the block is padding
  int64_t alike = 1;        // this block and those after it with taps at the same offsets and the same access
  Access access = Access::any;
  int64_t channel = 0;      // of the first row
  int32_t source[kBlock];   // the channel of each row, for padding that of the first
  // Loads of sixteen channels that reach all rows' channels.
  int64_t windows = 0;
  int64_t window[kBlock];        // first channel of each
  uint16_t window_rows[kBlock];  // the rows that it serves
  int32_t index[kBlock];         // of each row's channel in its window
};

// Where a tile lies. Output columns [x0, x0 + width) of rows [y0, y0 + height); their pixels count row by row.
struct Tile {
  int64_t y0, x0, height, width;
};

struct Image {
  const float* data;  // [size[1], size[2], channels]
  int64_t channels;
  Extent extent;
};

// What happens to the product on its way into the output: relu?(product + bias + residual).
struct Epilogue {
  const float* bias;      // a multiple of sixteen of them, or null
  const float* residual;  // likewise at the tile's first pixel, or null
  bool relu;
};

struct Product {
  const float* panel;    // [rows / 16 rounded up][panel_pixels][16]
  int64_t panel_pixels;  // room in the panel, not all of it in use
  const float* weight;   // [out_channels / 16 rounded up][rows][16]
  int64_t rows;
  int64_t out_channels;
  const int64_t* at;  // per pixel, where its channels begin, from the tile's first pixel on
  int64_t pixels;     // at most panel_pixels
  float* output;      // at the tile's first pixel
  Epilogue epilogue;
  // What a later tile will read and where it will write, brought closer meanwhile: so many bytes further for each row
  // of each piece.
  const char* read_ahead;
  const char* write_ahead;
  int64_t read_step, write_step;
};

struct Tiles {
  int64_t pixels;  // of a full tile

  // panel[b * step + p * 16 + r] = row r of block b at the tile's pixel p. Taps outside the image are not read, nor is
  // what a row's weight is zero for.
  void (*sample)(float* panel, int64_t step, const Image& image, const ChannelBlock* blocks, int64_t count,
                 const Tile& tile);

  // Output channels [sixteen * first, sixteen * last) of the product; each sum runs over the rows in order.
  void (*multiply)(const Product& product, int64_t first, int64_t last);
};

// The copy for this machine.
const Tiles& tiles();

}  // namespace asl
