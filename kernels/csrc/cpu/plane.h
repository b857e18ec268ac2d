// One image plane and the taps that read it: the plain types shared by the ops and the per-ISA loops.
//
// Every problem is brought to three spatial axes (z, y, x); missing leading axes have size 1.
#pragma once

#include <cstdint>

namespace asl {

struct BFloat16 {
  uint16_t bits;
};

// The type in which sums run, and the lane mask of the same width.
template <typename T>
struct Compute {
  using type = T;
};
template <>
struct Compute<BFloat16> {
  using type = float;
};
template <typename T>
using compute_t = typename Compute<T>::type;

template <typename A>
struct Lane;
template <>
struct Lane<float> {
  using mask = int32_t;
};
template <>
struct Lane<double> {
  using mask = int64_t;
};

struct Extent {
  int64_t size[3];    // pixels of the plane that is read
  int64_t out[3];     // pixels of the plane that is written
  int64_t stride[3];  // step in the read plane per written pixel

  int64_t pixels() const { return size[0] * size[1] * size[2]; }
  int64_t out_pixels() const { return out[0] * out[1] * out[2]; }
};

// The separable taps of one row: per axis none, one or two (offset, weight), all of them with a weight other than 0.
template <typename A>
struct Taps {
  int count[3];
  int64_t offset[3][2];
  A weight[3][2];
};

// For each x offset the validity of flattened pixels: at(dx)[j] is all ones where column (j % width) + dx exists.
// Lets narrow images run through the vector loops as one flat line.
template <typename A>
struct ColumnMasks {
  using mask = typename Lane<A>::mask;
  static constexpr int64_t kRun = 1024;  // pixels that may follow a start anywhere in the first image row

  int64_t first = 0;   // x offset of the first mask
  int64_t length = 0;  // entries per mask, 0 where the flat form does not apply
  const mask* data = nullptr;

  bool usable() const { return length > 0; }
  const mask* at(int64_t dx) const { return data + (dx - first) * length; }
};

// For each (y, x) offset one bit per flattened output pixel: set where the tap exists. For instruction sets with
// masked loads, which then need no other border handling.
struct PixelMasks {
  int64_t first[2] = {0, 0};  // y and x offset of the first mask
  int64_t count[2] = {0, 0};
  int64_t words = 0;  // 64-bit words per mask, 0 where the form does not apply
  const uint64_t* data = nullptr;

  bool usable() const { return words > 0; }
  // Null where no pixel has this tap.
  const uint64_t* at(int64_t dy, int64_t dx) const {
    const int64_t y = dy - first[0], x = dx - first[1];
    if (y < 0 || y >= count[0] || x < 0 || x >= count[1]) return nullptr;
    return data + (y * count[1] + x) * words;
  }
};

// At most one of the two forms is usable; where neither is, images are worked on row by row.
template <typename A>
struct Masks {
  ColumnMasks<A> columns;
  PixelMasks pixels;
};

}  // namespace asl
