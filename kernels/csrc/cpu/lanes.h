// The loops that work on as many rows at once as a vector has lanes, pixel by pixel: for channels_last images, for
// images too small to fill vectors with their pixels, and for any stride and output size.
#pragma once

#include "plane.h"

namespace asl {

constexpr int kMostLanes = 16;

// One offset that some rows of a block read, and what it weighs in each of them: 0 where a row does not read it.
// The taps of a block are the products of its row taps (dz, dy) and its column taps (dx).
template <typename A>
struct LaneTap {
  alignas(64) A weight[kMostLanes];
  A slope[2][kMostLanes];  // along z and y for a row tap, along x in the first for a column tap
  int64_t dz, dy, dx;
};

// The taps of at most `lanes` rows, those that reach the image at all. Taps with a sampling weight come first; the
// rest serve the slopes only.
template <typename A>
struct LaneTaps {
  static constexpr int kMostRows = 9 * kMostLanes, kMostColumns = 3 * kMostLanes;

  const LaneTap<A>* rows;
  int row_count, sampled_rows;
  const LaneTap<A>* columns;
  int column_count, sampled_columns;
  // Columns beyond the image on either side that output pixels ask for.
  int64_t left, right;
};

// Where a block's lanes lie in an image of planes, or of pixels with all their channels (`last`).
struct LaneImage {
  const int64_t* channel;  // of each lane
  int count;               // lanes in use
  int64_t pixels;
  int64_t channels;
  bool last;
};

// A tile holds pixel after pixel, `lanes` values each, in the compute type.
template <typename T>
struct LaneLoops {
  using A = compute_t<T>;
  int lanes;

  // Lanes beyond the count become zero.
  void (*gather)(A* tile, const T* image, const LaneImage& where);
  void (*scatter)(T* image, const A* tile, const LaneImage& where);
  // Adds to an image in the compute type, lane after lane: several may belong to one channel.
  void (*scatter_add)(A* image, const A* tile, const LaneImage& where);

  // y = the weighted taps of x; both go `step` elements from pixel to pixel. scratch: lane_scratch(...) elements.
  void (*sample)(A* y, int64_t y_step, const A* x, int64_t x_step, const LaneTaps<A>& taps, const Extent& extent,
                 A* scratch);

  // grad_input = the adjoint of grad, `input_step` elements from pixel to pixel; adds each lane's slopes times grad to
  // sums[axis * lanes + lane]. Either may be null; x may be null where sums is. A fixed order.
  void (*backward)(A* grad_input, int64_t input_step, double* sums, const A* grad, int64_t grad_step, const A* x, int64_t x_step,
                   const LaneTaps<A>& taps, const Extent& extent, A* scratch);
};

// Memory that `sample` and `backward` need beside the tiles, in elements.
template <typename A>
int64_t lane_scratch(const LaneTaps<A>& taps, const Extent& extent, int lanes) {
  return (2 * taps.left + 3 * extent.size[2] + taps.right + extent.out[2] * (extent.stride[2] + 2)) * lanes;
}

}  // namespace asl
