// Unites the taps of the rows in a block: one entry per offset, with every lane's weight and slopes.
#include "lane_plan.h"

#include <algorithm>
#include <numeric>

namespace asl {
namespace {

// Offset and weight of a tap along one axis; the derivative's taps may lie outside the sampling ones.
template <typename A>
struct AxisTap {
  int64_t offset;
  A weight, slope;
};

// Offsets are multiplied by `sign`.
template <typename A>
int axis_taps(const RowShift<A>& shift, int axis, int64_t sign, bool slopes, AxisTap<A>* taps) {
  const A fraction = shift.fraction[axis];
  const int64_t base = shift.base[axis];
  if (fraction != A(0)) {
    taps[0] = {sign * base, A(1) - fraction, A(-1)};
    taps[1] = {sign * (base + 1), fraction, A(1)};
    return 2;
  }
  taps[0] = {sign * base, A(1), A(0)};
  if (!slopes) return 1;
  // A kink: half the slope on the left and half of that on the right.
  taps[1] = {base - 1, A(0), A(-0.5)};
  taps[2] = {base + 1, A(0), A(0.5)};
  return 3;
}

bool reaches(const Extent& extent, int axis, int64_t offset) {
  return offset < extent.size[axis] && offset + (extent.out[axis] - 1) * extent.stride[axis] >= 0;
}

// The entry of this offset among those since `first`, added where there is none.
template <typename A>
LaneTap<A>& entry(std::vector<LaneTap<A>>& taps, size_t first, int64_t dz, int64_t dy, int64_t dx) {
  for (size_t i = first; i < taps.size(); ++i) {
    if (taps[i].dz == dz && taps[i].dy == dy && taps[i].dx == dx) return taps[i];
  }
  taps.push_back({{}, {}, dz, dy, dx});
  return taps.back();
}

template <typename A>
int sampled_first(std::vector<LaneTap<A>>& taps, size_t first) {
  const auto sampled = [](const LaneTap<A>& tap) {
    return std::any_of(tap.weight, tap.weight + kMostLanes, [](A weight) { return weight != A(0); });
  };
  const auto begin = taps.begin() + static_cast<int64_t>(first);
  return static_cast<int>(std::partition(begin, taps.end(), sampled) - begin);
}

}  // namespace

template <typename A>
LanePlan<A>::LanePlan(const Problem& problem, const std::vector<RowShift<A>>& shifts, int lanes, Kind kind)
    : extent_(problem.extent) {
  const bool slopes = kind == Kind::sample_and_slopes;
  const int64_t sign = kind == Kind::adjoint ? -1 : 1;
  if (kind == Kind::adjoint) std::swap_ranges(extent_.size, extent_.size + 3, extent_.out);
  const Extent& extent = extent_;
  const int first_axis = 3 - problem.dims;
  struct Span {
    size_t rows, columns, end;
    int sampled_rows, sampled_columns;
  };
  std::vector<Span> spans;
  rows_.resize(shifts.size());
  // A guess that spares most problems a copy.
  taps_.reserve((shifts.size() / static_cast<size_t>(lanes) + 1) * 12);
  std::iota(rows_.begin(), rows_.end(), int64_t{0});
  const int64_t rows = static_cast<int64_t>(shifts.size());
  for (int64_t begin = 0; begin < rows; begin += lanes) {
    const int64_t count = std::min<int64_t>(lanes, rows - begin);
    Span span{taps_.size(), 0, 0, 0, 0};
    AxisTap<A> z[3], y[3], x[3];
    for (int64_t lane = 0; lane < count; ++lane) {
      const RowShift<A>& shift = shifts[begin + lane];
      const int depth = axis_taps(shift, 0, sign, slopes && first_axis <= 0, z);
      const int height = axis_taps(shift, 1, sign, slopes && first_axis <= 1, y);
      for (int d = 0; d < depth; ++d) {
        if (!reaches(extent, 0, z[d].offset)) continue;
        for (int t = 0; t < height; ++t) {
          if (!reaches(extent, 1, y[t].offset)) continue;
          LaneTap<A>& tap = entry(taps_, span.rows, z[d].offset, y[t].offset, 0);
          tap.weight[lane] = z[d].weight * y[t].weight;
          tap.slope[0][lane] = first_axis <= 0 ? z[d].slope * y[t].weight : A(0);
          tap.slope[1][lane] = first_axis <= 1 ? z[d].weight * y[t].slope : A(0);
        }
      }
    }
    span.sampled_rows = sampled_first(taps_, span.rows);
    span.columns = taps_.size();
    for (int64_t lane = 0; lane < count; ++lane) {
      const int width = axis_taps(shifts[begin + lane], 2, sign, slopes, x);
      for (int c = 0; c < width; ++c) {
        if (!reaches(extent, 2, x[c].offset)) continue;
        LaneTap<A>& tap = entry(taps_, span.columns, 0, 0, x[c].offset);
        tap.weight[lane] = x[c].weight;
        tap.slope[0][lane] = x[c].slope;
      }
    }
    span.sampled_columns = sampled_first(taps_, span.columns);
    span.end = taps_.size();
    spans.push_back(span);
  }
  for (size_t b = 0; b < spans.size(); ++b) {
    const Span& span = spans[b];
    const int64_t begin = static_cast<int64_t>(b) * lanes;
    LaneTaps<A> taps{taps_.data() + span.rows,    static_cast<int>(span.columns - span.rows), span.sampled_rows,
                     taps_.data() + span.columns, static_cast<int>(span.end - span.columns),  span.sampled_columns,
                     0,                           0};
    for (int t = 0; t < taps.column_count; ++t) {
      const int64_t dx = taps.columns[t].dx;
      taps.left = std::max(taps.left, -dx);
      taps.right = std::max(taps.right, (extent.out[2] - 1) * extent.stride[2] + dx - (extent.size[2] - 1));
    }
    scratch_ = std::max(scratch_, lane_scratch(taps, extent, lanes));
    blocks_.push_back({static_cast<int>(std::min<int64_t>(lanes, rows - begin)), rows_.data() + begin,
                       problem.source.data() + begin, taps});
  }
}

bool keeps_size(const Problem& problem) {
  const Extent& extent = problem.extent;
  bool keeps = true;
  for (int axis = 0; axis < 3; ++axis) keeps &= extent.stride[axis] == 1 && extent.out[axis] == extent.size[axis];
  return keeps;
}

bool wants_lanes(const Problem& problem, int64_t small_plane) {
  return problem.channels_last || !keeps_size(problem) || problem.extent.pixels() < small_plane;
}

template class LanePlan<float>;
template class LanePlan<double>;

}  // namespace asl
