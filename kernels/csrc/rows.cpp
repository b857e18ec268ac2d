// Tap tables: floor and fraction per axis, zero weights dropped so that no such pixel is ever read.
#include "rows.h"

#include <algorithm>
#include <cmath>

#include <torch/headeronly/util/Exception.h>

#include "cpu/dispatch.h"

namespace asl {
namespace {

// Beyond any image, so that clamping changes no result and the cast to int64 is defined.
constexpr double kFar = 1e9;
// Wider images gain nothing from the flat form; the row form needs no masks.
constexpr int64_t kWidestFlat = 512;
constexpr int64_t kMaskBytes = 1 << 20;

// T is the shift's own type: the split runs in its precision, so that every implementation rounds alike.
template <typename T, typename A>
void split(const Problem& problem, const Tensor& shift, std::vector<RowShift<A>>& rows) {
  using S = compute_t<T>;
  const T* data = static_cast<const T*>(shift.data_ptr());
  const int64_t row_step = shift.stride(0), step = shift.stride(1);
  bool finite = true;
  // Without branches: half-pixel shifts would mislead the predictor at every other row, and this runs on each call.
  for (int64_t k = 0; k < problem.rows; ++k) {
    for (int d = 0; d < problem.dims; ++d) {
      const S given = widened(data[k * row_step + d * step]);
      finite &= std::isfinite(given);
      const S value = given > S(kFar) ? S(kFar) : given >= S(-kFar) ? given : S(-kFar);
      const int64_t toward_zero = static_cast<int64_t>(value);
      const int64_t base = toward_zero - (static_cast<S>(toward_zero) > value);
      const A fraction = static_cast<A>(value - static_cast<S>(base));
      const bool rounds_up = fraction >= A(1);
      const int axis = 3 - problem.dims + d;
      rows[k].base[axis] = base + rounds_up;
      rows[k].fraction[axis] = rounds_up ? A(0) : fraction;
    }
  }
  STD_TORCH_CHECK(finite, "active shift: shift holds a value that is not finite");
}

// Sets bits [first, last).
void set_bits(uint64_t* words, int64_t first, int64_t last) {
  while (first < last) {
    const int64_t stop = std::min(last, (first / 64 + 1) * 64);
    const uint64_t run = stop - first == 64 ? ~uint64_t{0} : (uint64_t{1} << (stop - first)) - 1;
    words[first / 64] |= run << (first % 64);
    first = stop;
  }
}

bool flat(const Extent& extent) {
  const bool line = extent.size[1] == 1 && extent.out[1] == 1;
  return extent.pixels() > 0 && extent.out_pixels() > 0 && extent.stride[2] == 1 && (extent.stride[1] == 1 || line) &&
         extent.out[2] == extent.size[2];
}

}  // namespace

template <typename A>
std::vector<RowShift<A>> split_shifts(const Problem& problem, const Tensor& shift) {
  std::vector<RowShift<A>> rows(problem.rows);
  if (rows.empty()) return rows;
  for_type(shift.scalar_type(), [&](auto tag) { split<decltype(tag), A>(problem, shift, rows); });
  return rows;
}

template <typename A>
Taps<A> sample_taps(const RowShift<A>& shift) {
  Taps<A> taps;
  for (int axis = 0; axis < 3; ++axis) {
    // A fraction is below 1, so the first tap always has a weight; the second only off the whole pixel.
    const A fraction = shift.fraction[axis];
    taps.count[axis] = 1 + (fraction != A(0));
    taps.offset[axis][0] = shift.base[axis];
    taps.weight[axis][0] = A(1) - fraction;
    taps.offset[axis][1] = shift.base[axis] + 1;
    taps.weight[axis][1] = fraction;
  }
  return taps;
}

template <typename A>
std::vector<Taps<A>> sample_taps(const std::vector<RowShift<A>>& shifts) {
  std::vector<Taps<A>> rows(shifts.size());
  for (size_t k = 0; k < shifts.size(); ++k) rows[k] = sample_taps(shifts[k]);
  return rows;
}

template <typename A>
Taps<A> negated(const Taps<A>& taps) {
  Taps<A> result = taps;
  for (int axis = 0; axis < 3; ++axis) {
    for (int t = 0; t < taps.count[axis]; ++t) result.offset[axis][t] = -taps.offset[axis][t];
  }
  return result;
}

template <typename A>
std::vector<SlopeTap<A>> slope_taps(const Problem& problem, const RowShift<A>& shift) {
  const Taps<A> taps = sample_taps(shift);
  std::vector<SlopeTap<A>> result;
  for (int axis = 3 - problem.dims; axis < 3; ++axis) {
    Taps<A> sloped = taps;
    const bool whole = shift.fraction[axis] == A(0);
    sloped.count[axis] = 2;
    sloped.offset[axis][0] = shift.base[axis] - (whole ? 1 : 0);
    sloped.offset[axis][1] = shift.base[axis] + 1;
    sloped.weight[axis][0] = whole ? A(-0.5) : A(-1);
    sloped.weight[axis][1] = whole ? A(0.5) : A(1);
    for (int z = 0; z < sloped.count[0]; ++z) {
      for (int y = 0; y < sloped.count[1]; ++y) {
        for (int x = 0; x < sloped.count[2]; ++x) {
          const int64_t offset[3] = {sloped.offset[0][z], sloped.offset[1][y], sloped.offset[2][x]};
          auto found = std::find_if(result.begin(), result.end(),
                                    [&](const auto& tap) { return std::equal(offset, offset + 3, tap.offset); });
          if (found == result.end()) {
            result.push_back({{offset[0], offset[1], offset[2]}, {A(0), A(0), A(0)}});
            found = result.end() - 1;
          }
          found->slope[axis] += sloped.weight[0][z] * sloped.weight[1][y] * sloped.weight[2][x];
        }
      }
    }
  }
  return result;
}

template <typename A>
MaskTable<A>::MaskTable(const Extent& extent, const std::vector<Taps<A>>& rows, int64_t margin, bool pixels) {
  if (!flat(extent)) return;
  int64_t lowest[3], highest[3];
  for (int axis = 1; axis < 3; ++axis) {
    const int64_t first = -extent.out[axis], last = extent.size[axis];
    lowest[axis] = last;
    highest[axis] = first;
    for (const Taps<A>& taps : rows) {
      const int64_t one = taps.offset[axis][0], other = taps.offset[axis][taps.count[axis] - 1];
      const int64_t low = std::min(one, other) - margin, high = std::max(one, other) + margin;
      // A row that reads nothing of the image asks for no mask.
      const bool counts = low < last && high > first;
      lowest[axis] = std::min(lowest[axis], counts ? low : last);
      highest[axis] = std::max(highest[axis], counts ? high : first);
    }
    lowest[axis] = std::max(lowest[axis], first + 1);
    highest[axis] = std::min(highest[axis], last - 1);
  }
  if (!(pixels && make_pixels(extent, lowest, highest))) make_columns(extent, lowest[2], highest[2]);
}

template <typename A>
bool MaskTable<A>::make_pixels(const Extent& extent, const int64_t lowest[3], const int64_t highest[3]) {
  if (extent.size[0] != 1 || extent.out[0] != 1) return false;
  PixelMasks& view = view_.pixels;
  const int64_t width = extent.size[2];
  const int64_t words = (extent.out_pixels() + 63) / 64 + 1;
  for (int i = 0; i < 2; ++i) {
    view.first[i] = lowest[i + 1];
    view.count[i] = std::max<int64_t>(highest[i + 1] - lowest[i + 1] + 1, 0);
  }
  if (view.count[0] * view.count[1] * words * 8 > kMaskBytes) return false;
  pixels_.assign(std::max<int64_t>(view.count[0] * view.count[1], 1) * words, 0);
  std::vector<uint64_t> whole(words);
  for (int64_t x = 0; x < view.count[1]; ++x) {
    const int64_t dx = view.first[1] + x;
    const int64_t first = std::max<int64_t>(0, -dx), last = std::min(width, width - dx);
    std::fill(whole.begin(), whole.end(), 0);
    for (int64_t row = 0; row < extent.out[1]; ++row) set_bits(whole.data(), row * width + first, row * width + last);
    for (int64_t y = 0; y < view.count[0]; ++y) {
      const int64_t dy = view.first[0] + y;
      // Rows [top, bottom) have this tap; the rest of the mask stays empty.
      const int64_t top = std::max<int64_t>(0, -dy) * width;
      const int64_t bottom = std::min(extent.out[1], extent.size[1] - dy) * width;
      uint64_t* mask = pixels_.data() + (y * view.count[1] + x) * words;
      for (int64_t at = top; at < bottom;) {
        const int64_t stop = std::min(bottom, (at / 64 + 1) * 64);
        const uint64_t run = stop - at == 64 ? ~uint64_t{0} : ((uint64_t{1} << (stop - at)) - 1) << (at % 64);
        mask[at / 64] |= whole[at / 64] & run;
        at = stop;
      }
    }
  }
  view.words = words;
  view.data = pixels_.data();
  return true;
}

template <typename A>
void MaskTable<A>::make_columns(const Extent& extent, int64_t lowest, int64_t highest) {
  using mask = typename Lane<A>::mask;
  const int64_t width = extent.size[2];
  const int64_t length = width + std::min(ColumnMasks<A>::kRun, extent.out_pixels());
  const int64_t count = std::max<int64_t>(highest - lowest + 1, 0);
  if (width >= kWidestFlat || count * length * static_cast<int64_t>(sizeof(mask)) > kMaskBytes) return;
  columns_.resize(std::max<int64_t>(count, 1) * length);
  for (int64_t m = 0; m < count; ++m) {
    mask* to = columns_.data() + m * length;
    for (int64_t j = 0, column = 0; j < length; ++j, column = column + 1 == width ? 0 : column + 1) {
      const int64_t at = column + lowest + m;
      to[j] = at >= 0 && at < width ? mask(-1) : mask(0);
    }
  }
  view_.columns.first = lowest;
  view_.columns.length = length;
  view_.columns.data = columns_.data();
}

#define ASL_INSTANTIATE(A)                                                                             \
  template std::vector<RowShift<A>> split_shifts<A>(const Problem&, const Tensor&);                    \
  template Taps<A> sample_taps<A>(const RowShift<A>&);                                                 \
  template std::vector<Taps<A>> sample_taps<A>(const std::vector<RowShift<A>>&);                       \
  template Taps<A> negated<A>(const Taps<A>&);                                                         \
  template std::vector<SlopeTap<A>> slope_taps<A>(const Problem&, const RowShift<A>&);                 \
  template class MaskTable<A>;
ASL_INSTANTIATE(float)
ASL_INSTANTIATE(double)

}  // namespace asl
