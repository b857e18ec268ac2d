// The inner loops, compiled once per instruction set and chosen at load time.
#pragma once

#include "lanes.h"
#include "plane.h"

namespace asl {

template <typename T>
struct Loops {
  using A = compute_t<T>;

  // dst[p - begin] = sum of weighted taps at flattened output pixel p, for p in [begin, end).
  // Taps outside the plane are not read. begin must be a multiple of 16. `ahead` is where the next call will read,
  // or null.
  void (*sample)(T* dst, const T* plane, const Taps<A>& taps, const Extent& extent, const Masks<A>& masks,
                 int64_t begin, int64_t end, const T* ahead);

  // The same added to dst, which holds the compute type.
  void (*sample_add)(A* dst, const T* plane, const Taps<A>& taps, const Extent& extent, const Masks<A>& masks,
                     int64_t begin, int64_t end, const T* ahead);

  // Sum over p in [begin, end) of grad[p] * plane at p's position plus offset (z, y, x); a fixed order.
  double (*correlate)(const T* grad, const T* plane, const int64_t offset[3], const Extent& extent,
                      const Masks<A>& masks, int64_t begin, int64_t end);

  void (*store)(T* dst, const A* src, int64_t count);

  // dst[r * dst_step + c] = relu?(src[r * src_step + c] + bias[r]); bias may be null, src may be dst.
  void (*epilogue)(T* dst, int64_t dst_step, const T* src, int64_t src_step, const T* bias, bool relu, int64_t rows,
                   int64_t columns);

  // The same for pixels in rows and channels in columns: bias[c].
  void (*epilogue_last)(T* data, const T* bias, bool relu, int64_t rows, int64_t columns);

  // dst[r * dst_step] = left[r, :] . column[:]; null where a matrix product does it as well.
  void (*multiply_column)(T* dst, int64_t dst_step, const T* left, const T* column, int64_t rows, int64_t length);

  const LaneLoops<T>* lanes;

  // Whether these loops read PixelMasks rather than ColumnMasks.
  bool masked_loads;
};

// The loops for this machine, and the name of their instruction set.
template <typename T>
const Loops<T>& loops();
const char* isa_name();

}  // namespace asl
