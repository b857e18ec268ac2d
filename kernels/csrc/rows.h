// Turns the shifts of all rows into taps, slopes and column masks.
#pragma once

#include <vector>

#include "problem.h"

namespace asl {

// One row's whole pixels and fractions per axis (z, y, x); axes that the image lacks stay at 0.
template <typename A>
struct RowShift {
  int64_t base[3] = {0, 0, 0};
  A fraction[3] = {0, 0, 0};
};

// Throws std::runtime_error where a shift is not finite.
template <typename A>
std::vector<RowShift<A>> split_shifts(const Problem& problem, const Tensor& shift);

template <typename A>
Taps<A> sample_taps(const RowShift<A>& shift);
template <typename A>
std::vector<Taps<A>> sample_taps(const std::vector<RowShift<A>>& shifts);

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

// Owns the masks that the rows' taps need; neither form is usable where strides or widths rule the flat forms out.
template <typename A>
class MaskTable {
 public:
  // Covers the rows' y and x offsets widened by `margin`; `pixels` asks for PixelMasks where they apply.
  MaskTable(const Extent& extent, const std::vector<Taps<A>>& rows, int64_t margin, bool pixels);
  // The view points into this table.
  MaskTable(MaskTable&&) = default;
  MaskTable(const MaskTable&) = delete;
  const Masks<A>& view() const { return view_; }
  size_t bytes() const { return columns_.size() * sizeof(columns_[0]) + pixels_.size() * sizeof(pixels_[0]); }

 private:
  bool make_pixels(const Extent& extent, const int64_t lowest[3], const int64_t highest[3]);
  void make_columns(const Extent& extent, int64_t lowest, int64_t highest);

  std::vector<typename Lane<A>::mask> columns_;
  std::vector<uint64_t> pixels_;
  Masks<A> view_;
};

}  // namespace asl
