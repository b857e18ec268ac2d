// Sampling in channels_last: sixteen channels at a time, so that every load is one contiguous vector.
#pragma once

#include "plane.h"

namespace asl {

constexpr int64_t kBlock = 16;     // channels that share one set of taps
constexpr int64_t kMostTaps = 5;  // offsets per axis that a block may have

// One axis of a block: consecutive offsets, and per offset a weight for each channel.
struct AxisTaps {
  int64_t first = 0;
  int64_t count = 0;
  float weight[kMostTaps + 1][kBlock];  // zero where a channel does not read this offset; the last is spare
};

// Bilinear taps are a product of the two axes: the y axis is summed once per pixel and reused along x.
struct ChannelBlock {
  AxisTaps y, x;
};

// panel[(p - begin) * panel_step + c] = sum of weighted taps of channel c at flattened output pixel p, p in [begin,
// end) of one image. `image` points to the block's first channel; the image has `channels` of them, and `present` of
// the block's are wanted (the panel has room for all sixteen). Stride 1. Taps outside the image are not read, nor is
// what a channel's weight is zero for.
using SampleBlock = void (*)(float* panel, int64_t panel_step, const float* image, int64_t channels, int64_t present,
                             const ChannelBlock& block, const Extent& extent, int64_t begin, int64_t end);

// The copy for this machine.
SampleBlock sample_block();

}  // namespace asl
