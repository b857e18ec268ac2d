// Turns the shifts of all rows into taps, slopes and column masks.
#pragma once

#include <vector>

#include "problem.h"

namespace asl {

// The [K * D] shifts, each exactly representable as double.
std::vector<double> shift_values(const Tensor& shift);

// One row's whole pixels and fractions per axis (z, y, x); axes that the image lacks stay at 0.
template <typename A>
struct RowShift {
  int64_t base[3] = {0, 0, 0};
  A fraction[3] = {0, 0, 0};
};

template <typename A>
std::vector<RowShift<A>> split_shifts(const Problem& problem, const Tensor& shift);

template <typename A>
Taps<A> sample_taps(const RowShift<A>& shift);

// The taps of the adjoint at stride 1: the same weights at the negated offsets.
template <typename A>
Taps<A> negated(const Taps<A>& taps);

// One tap that a row's shift gradient needs, and what it adds to the slope along each axis.
template <typename A>
struct SlopeTap {
  int64_t offset[3];
  A slope[3];
};

template <typename A>
std::vector<SlopeTap<A>> slope_taps(const Problem& problem, const RowShift<A>& shift);

// Owns the masks for all x offsets between two bounds; unusable where the flat form does not apply.
template <typename A>
class MaskTable {
 public:
  MaskTable(const Extent& extent, int64_t lowest, int64_t highest);
  const ColumnMasks<A>& view() const { return view_; }

 private:
  std::vector<typename Lane<A>::mask> data_;
  ColumnMasks<A> view_;
};

// The bounds over the rows' taps along x, widened by `margin`.
template <typename A>
MaskTable<A> masks_for(const Extent& extent, const std::vector<Taps<A>>& rows, int64_t margin);

}  // namespace asl
