// Tap tables: floor and fraction per axis, zero weights dropped so that no such pixel is ever read.
#include "rows.h"

#include <algorithm>
#include <cmath>

#include <torch/headeronly/core/ScalarType.h>

namespace asl {
namespace {

using torch::headeronly::ScalarType;

// Beyond any image, so that clamping changes no result and the cast to int64 is defined.
constexpr double kFar = 1e9;
// Wider images gain nothing from the flat form; the row form needs no masks.
constexpr int64_t kWidestFlat = 512;
constexpr int64_t kMaskBytes = 1 << 20;

double read(const void* data, ScalarType type, int64_t index) {
  if (type == ScalarType::Double) return static_cast<const double*>(data)[index];
  if (type == ScalarType::Float) return static_cast<const float*>(data)[index];
  const uint32_t bits = static_cast<uint32_t>(static_cast<const uint16_t*>(data)[index]) << 16;
  float value;
  __builtin_memcpy(&value, &bits, sizeof(value));
  return value;
}

}  // namespace

std::vector<double> shift_values(const Tensor& shift) {
  const int64_t rows = shift.size(0), dims = shift.size(1);
  std::vector<double> values(rows * dims);
  if (values.empty()) return values;
  const int64_t row_step = shift.stride(0), step = shift.stride(1);
  const ScalarType type = shift.scalar_type();
  const void* data = shift.data_ptr();
  for (int64_t k = 0; k < rows; ++k) {
    for (int64_t d = 0; d < dims; ++d) values[k * dims + d] = read(data, type, k * row_step + d * step);
  }
  return values;
}

template <typename A>
std::vector<RowShift<A>> split_shifts(const Problem& problem, const Tensor& shift) {
  const std::vector<double> values = shift_values(shift);
  const bool wide = shift.scalar_type() == ScalarType::Double;
  std::vector<RowShift<A>> rows(problem.rows);
  for (int64_t k = 0; k < problem.rows; ++k) {
    for (int d = 0; d < problem.dims; ++d) {
      const double value = std::clamp(values[k * problem.dims + d], -kFar, kFar);
      const double base = std::floor(value);
      // In the shift's own precision first, so that every implementation rounds alike.
      const double rest = wide ? value - base : static_cast<double>(static_cast<float>(value - base));
      const A fraction = static_cast<A>(rest);
      const int axis = 3 - problem.dims + d;
      rows[k].base[axis] = static_cast<int64_t>(base) + (fraction >= A(1) ? 1 : 0);
      rows[k].fraction[axis] = fraction >= A(1) ? A(0) : fraction;
    }
  }
  return rows;
}

template <typename A>
Taps<A> sample_taps(const RowShift<A>& shift) {
  Taps<A> taps{};
  for (int axis = 0; axis < 3; ++axis) {
    const A fraction = shift.fraction[axis];
    if (A(1) - fraction != A(0)) {
      taps.offset[axis][taps.count[axis]] = shift.base[axis];
      taps.weight[axis][taps.count[axis]++] = A(1) - fraction;
    }
    if (fraction != A(0)) {
      taps.offset[axis][taps.count[axis]] = shift.base[axis] + 1;
      taps.weight[axis][taps.count[axis]++] = fraction;
    }
  }
  return taps;
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
MaskTable<A>::MaskTable(const Extent& extent, int64_t lowest, int64_t highest) {
  const int64_t width = extent.size[2];
  lowest = std::max(lowest, 1 - width);
  highest = std::min(highest, width - 1);
  const bool line = extent.size[1] == 1 && extent.out[1] == 1;
  if (extent.pixels() == 0 || extent.stride[2] != 1 || (extent.stride[1] != 1 && !line) || extent.out[2] != width ||
      width >= kWidestFlat) {
    return;
  }
  const int64_t length = width + std::min(ColumnMasks<A>::kRun, extent.out_pixels());
  const int64_t count = std::max<int64_t>(highest - lowest + 1, 0);
  using mask = typename Lane<A>::mask;
  if (count * length * static_cast<int64_t>(sizeof(mask)) > kMaskBytes) return;
  data_.resize(std::max<int64_t>(count, 1) * length);
  for (int64_t m = 0; m < count; ++m) {
    mask* to = data_.data() + m * length;
    for (int64_t j = 0, column = 0; j < length; ++j, column = column + 1 == width ? 0 : column + 1) {
      const int64_t at = column + lowest + m;
      to[j] = at >= 0 && at < width ? mask(-1) : mask(0);
    }
  }
  view_.first = lowest;
  view_.length = length;
  view_.data = data_.data();
}

template <typename A>
MaskTable<A> masks_for(const Extent& extent, const std::vector<Taps<A>>& rows, int64_t margin) {
  const int64_t width = extent.size[2];
  int64_t lowest = width, highest = -width;
  for (const Taps<A>& taps : rows) {
    for (int t = 0; t < taps.count[2]; ++t) {
      const int64_t offset = taps.offset[2][t];
      if (offset - margin >= width || offset + margin <= -width) continue;
      lowest = std::min(lowest, offset - margin);
      highest = std::max(highest, offset + margin);
    }
  }
  return MaskTable<A>(extent, lowest, highest);
}

#define ASL_INSTANTIATE(A)                                                                             \
  template std::vector<RowShift<A>> split_shifts<A>(const Problem&, const Tensor&);                    \
  template Taps<A> sample_taps<A>(const RowShift<A>&);                                                 \
  template Taps<A> negated<A>(const Taps<A>&);                                                         \
  template std::vector<SlopeTap<A>> slope_taps<A>(const Problem&, const RowShift<A>&);                 \
  template class MaskTable<A>;                                                                         \
  template MaskTable<A> masks_for<A>(const Extent&, const std::vector<Taps<A>>&, int64_t);
ASL_INSTANTIATE(float)
ASL_INSTANTIATE(double)

}  // namespace asl
