// The fused op on contiguous images, band by band: sixteen pixels of a plane at a time are sampled into a panel, whose
// pieces of a few vectors are multiplied by the 1x1 weight straight into the output planes.
//
// For AVX-512 only: it lives from masked loads and stores, and from 32 registers.
#pragma once

#include "plane.h"

namespace asl {

constexpr int64_t kPlaneVector = 16;  // pixels
constexpr int64_t kPlaneTile = 48;    // pixels of a piece of the product
constexpr int64_t kPairChannels = 8;  // output channels whose pairs of weights lie together

// One row of the layer: where it reads, and the bilinear weights of the two offsets per axis; a second that is zero is
// never read.
struct PlaneRow {
  int64_t channel;
  int64_t dy, dx;
  float y[2], x[2];
};

struct PlaneSize {
  int64_t height, width, out_height, out_width;
};

// Output rows [y0, y1) of one layer row, sampled into the panel one after the other.
struct PlaneJob {
  const float* plane;
  const PlaneRow* row;
  PlaneSize size;
  int64_t y0, y1;
  void* panel;        // four bytes a pixel
  const float* next;  // the plane that the next layer row reads, brought closer meanwhile
  // What is written: floats, or `scale` times as much as the low or the high 16 bits of integers.
  enum class Into { floats, low, high } into = Into::floats;
  float scale = 1.0f;
};

// output[o][p] = relu?(sum over k of weight[o][k] * panel[k][p] + bias[o] + residual[o][p]), the sums in order of k.
struct PlaneProduct {
  const float* panel;
  int64_t panel_step;  // from one row to the next, a multiple of sixteen
  int64_t pixels;
  int64_t rows;
  const float* weight;  // [C_out, rows], or packed: [C_out / 16 rounded up, rows, 16]
  bool packed;
  const float* bias;      // or null
  const float* residual;  // as output lies, or null
  bool relu;
  float* output;
  int64_t output_step;  // from one output channel to the next
};

// The same of a panel of pairs: rows 2k and 2k + 1 are the low and the high 16 bits of its row k. Sums are exact, and
// must not pass 32 bits.
struct PairProduct {
  const int32_t* panel;
  int64_t panel_step;  // from one row of pairs to the next, a multiple of sixteen
  int64_t pixels;
  int64_t pairs;
  const int32_t* weight;  // [C_out / 8 rounded up, pairs, 8], pairs of 16 bits
  const float* scale;     // [C_out]
  float step;             // what a sum of one is worth, beside the channel's scale
  const float* bias;      // or null
  const float* residual;  // as output lies, or null
  bool relu;
  float* output;
  int64_t output_step;
};

struct PlaneTiles {
  void (*sample)(const PlaneJob& job);
  void (*multiply)(const PlaneProduct& product, int64_t first, int64_t last);  // output channels [first, last)
};

// Null where the machine has no AVX-512.
const PlaneTiles* plane_tiles();

struct PairTiles {
  void (*multiply)(const PairProduct& product, int64_t channels);  // output channels [0, channels)
  // The largest sum of magnitudes of a channel's weights; `weight` as above.
  int64_t (*largest_sum)(const int32_t* weight, int64_t pairs, int64_t channels);
  // The bits of the largest magnitude of `count` floats; infinities and NaNs are the largest.
  uint32_t (*largest)(const float* values, int64_t count);
};

// Null where the machine has no AVX-512 with VNNI.
const PairTiles* pair_tiles();

}  // namespace asl
