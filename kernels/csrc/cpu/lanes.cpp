// The loops over lanes of rows, built once per instruction set under the same rules as loops.cpp.
#include "lanes.h"

#include "vector_size.h"

namespace asl {
namespace {

#include "simd.inc"
#include "lane_tiles.inc"

// Which lanes read a tap: what the others would have read must not reach a sum, as zero times infinity is not zero.
template <typename A>
struct Lanes;
#if defined(__AVX512F__)
template <>
struct Lanes<float> {
  typedef __mmask16 mask;
  typedef Simd<float>::vec vec;
  static ASL_INLINE mask of(vec w) { return _mm512_cmp_ps_mask((__m512)w, _mm512_setzero_ps(), _CMP_NEQ_UQ); }
  static ASL_INLINE bool any(mask lanes) { return lanes != 0; }
  static ASL_INLINE vec add(vec sum, mask lanes, vec w, vec value) {
    return (vec)_mm512_mask3_fmadd_ps((__m512)w, (__m512)value, (__m512)sum, lanes);
  }
};
template <>
struct Lanes<double> {
  typedef __mmask8 mask;
  typedef Simd<double>::vec vec;
  static ASL_INLINE mask of(vec w) { return _mm512_cmp_pd_mask((__m512d)w, _mm512_setzero_pd(), _CMP_NEQ_UQ); }
  static ASL_INLINE bool any(mask lanes) { return lanes != 0; }
  static ASL_INLINE vec add(vec sum, mask lanes, vec w, vec value) {
    return (vec)_mm512_mask3_fmadd_pd((__m512d)w, (__m512d)value, (__m512d)sum, lanes);
  }
};
#else
template <typename A>
struct Lanes {
  typedef typename Simd<A>::mask mask;
  typedef typename Simd<A>::vec vec;
  static ASL_INLINE mask of(vec w) { return w != vec{}; }
  static ASL_INLINE bool any(mask lanes) {
    bool found = false;
    for (int lane = 0; lane < Simd<A>::lanes; ++lane) found |= lanes[lane] != 0;
    return found;
  }
  static ASL_INLINE vec add(vec sum, mask lanes, vec w, vec value) {
    const vec product = w * value;
    return sum + (vec)((mask)product & lanes);
  }
};
#endif

// Weights of one kind (sampling, or the slope along an axis) of a block's taps, without those that are zero in every
// lane.
template <typename A, int kMost>
struct Weights {
  using mask = typename Lanes<A>::mask;
  int count = 0;
  const A* weight[kMost];
  mask lanes[kMost];
  const LaneTap<A>* tap[kMost];

  void add(const LaneTap<A>& source, const A* values) {
    lanes[count] = Lanes<A>::of(load(values));
    if (!Lanes<A>::any(lanes[count])) return;
    weight[count] = values;
    tap[count++] = &source;
  }
};
template <typename A>
using RowWeights = Weights<A, LaneTaps<A>::kMostRows>;
template <typename A>
using ColumnWeights = Weights<A, LaneTaps<A>::kMostColumns>;

// The row taps that exist for one output row.
template <typename A>
struct Line {
  using mask = typename Lanes<A>::mask;
  int count = 0;
  mask any{};  // lanes that read something
  const A* weight[LaneTaps<A>::kMostRows];
  mask lanes[LaneTaps<A>::kMostRows];
  int64_t row[LaneTaps<A>::kMostRows];  // of the image

  void find(const RowWeights<A>& weights, const Extent& extent, int64_t z, int64_t y) {
    count = 0;
    any = mask{};
    for (int t = 0; t < weights.count; ++t) {
      const int64_t depth = z * extent.stride[0] + weights.tap[t]->dz;
      const int64_t height = y * extent.stride[1] + weights.tap[t]->dy;
      if (depth < 0 || depth >= extent.size[0] || height < 0 || height >= extent.size[1]) continue;
      weight[count] = weights.weight[t];
      lanes[count] = weights.lanes[t];
      any |= weights.lanes[t];
      row[count++] = depth * extent.size[1] + height;
    }
  }
};

// Calls some(i, Count<n>) for pieces of [0, count) of 8 pixels, for which a weight is loaded once, and the smaller rest.
template <typename F>
ASL_INLINE void in_pieces(int64_t count, const F& some) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) some(i, Count<8>{});
  if (i + 4 <= count) {
    some(i, Count<4>{});
    i += 4;
  }
  if (i + 2 <= count) {
    some(i, Count<2>{});
    i += 2;
  }
  if (i < count) some(i, Count<1>{});
}

// dst[i] = sum over the line's taps of weight * the image row's pixel i.
template <typename A>
void blend_rows(A* dst, const A* x, int64_t x_step, const Line<A>& line, int64_t width) {
  using vec = typename Simd<A>::vec;
  constexpr int lanes = Simd<A>::lanes;
  const auto some = [&](int64_t i, auto together) ASL_LAMBDA_INLINE {
    constexpr int n = decltype(together)::value;
    vec sum[n] = {};
    for (int t = 0; t < line.count; ++t) {
      const vec weight = load(line.weight[t]);
      const A* src = x + (line.row[t] * width + i) * x_step;
      for (int j = 0; j < n; ++j) sum[j] = Lanes<A>::add(sum[j], line.lanes[t], weight, load(src + j * x_step));
    }
    for (int j = 0; j < n; ++j) save(dst + (i + j) * lanes, sum[j]);
  };
  in_pieces(width, some);
}

// The row after the line's last, which the next line will want: its pixels lie too far apart for the hardware to foresee.
template <typename A>
void prefetch_row(const A* x, int64_t x_step, const Line<A>& line, const Extent& extent) {
  const int64_t rows = extent.size[0] * extent.size[1], width = extent.size[2];
  int64_t next = 0;
  for (int t = 0; t < line.count; ++t) next = most(next, line.row[t] + extent.stride[1]);
  if (next >= rows) return;
  for (int64_t i = 0; i < width; ++i) __builtin_prefetch(x + (next * width + i) * x_step);
}

// For each i in [0, count): use(i, sum over taps of weight * src[i * step + sign * dx]).
template <int kSign, typename A, typename F>
ASL_INLINE void blend_columns(const A* src, const ColumnWeights<A>& weights, int64_t count, int64_t step, const F& use) {
  using vec = typename Simd<A>::vec;
  constexpr int lanes = Simd<A>::lanes;
  const auto some = [&](int64_t i, auto together) ASL_LAMBDA_INLINE {
    constexpr int n = decltype(together)::value;
    vec sum[n] = {};
    for (int t = 0; t < weights.count; ++t) {
      const vec weight = load(weights.weight[t]);
      const A* from = src + (i * step + kSign * weights.tap[t]->dx) * lanes;
      for (int j = 0; j < n; ++j) {
        sum[j] = Lanes<A>::add(sum[j], weights.lanes[t], weight, load(from + j * step * lanes));
      }
    }
    for (int j = 0; j < n; ++j) use(i + j, sum[j]);
  };
  in_pieces(count, some);
}

template <typename A>
void sampling(const LaneTaps<A>& taps, RowWeights<A>& rows, ColumnWeights<A>& columns) {
  for (int t = 0; t < taps.sampled_rows; ++t) rows.add(taps.rows[t], taps.rows[t].weight);
  for (int t = 0; t < taps.sampled_columns; ++t) columns.add(taps.columns[t], taps.columns[t].weight);
}

template <typename A>
void clear(A* dst, int64_t count) {
  __builtin_memset(dst, 0, static_cast<unsigned long>(count) * sizeof(A));
}

// A row of the image with zeros on both sides, so that column taps need no bounds.
template <typename A>
A* padded_row(A*& scratch, const LaneTaps<A>& taps, const Extent& extent) {
  constexpr int lanes = Simd<A>::lanes;
  A* row = scratch + taps.left * lanes;
  const int64_t length = (taps.left + extent.size[2] + taps.right) * lanes;
  clear(scratch, length);
  scratch += length;
  return row;
}

template <typename A>
void sample(A* y, int64_t y_step, const A* x, int64_t x_step, const LaneTaps<A>& taps, const Extent& extent,
            A* scratch) {
  using vec = typename Simd<A>::vec;
  const int64_t out_width = extent.out[2];
  RowWeights<A> rows;
  ColumnWeights<A> columns;
  sampling(taps, rows, columns);
  A* blended = padded_row(scratch, taps, extent);
  Line<A> line;
  for (int64_t z = 0; z < extent.out[0]; ++z) {
    for (int64_t height = 0; height < extent.out[1]; ++height, y += out_width * y_step) {
      line.find(rows, extent, z, height);
      if (line.count == 0) {
        for (int64_t i = 0; i < out_width; ++i) save(y + i * y_step, vec{});
        continue;
      }
      prefetch_row(x, x_step, line, extent);
      for (int64_t i = 0; i < out_width; ++i) __builtin_prefetch(y + (out_width + i) * y_step, 1);
      blend_rows(blended, x, x_step, line, extent.size[2]);
      blend_columns<1>(blended, columns, out_width, extent.stride[2],
                       [&](int64_t i, vec value) ASL_LAMBDA_INLINE { save(y + i * y_step, value); });
    }
  }
}

// For every output column, the lanes with one of these taps inside the image.
template <typename A>
void find_inside(A* inside, const ColumnWeights<A>& weights, const Extent& extent) {
  using mask = typename Lanes<A>::mask;
  for (int64_t i = 0; i < extent.out[2]; ++i) {
    mask any{};
    for (int t = 0; t < weights.count; ++t) {
      const int64_t at = i * extent.stride[2] + weights.tap[t]->dx;
      if (at >= 0 && at < extent.size[2]) any |= weights.lanes[t];
    }
    __builtin_memcpy(inside + i * Simd<A>::lanes, &any, sizeof(any));
  }
}

// The sum over an output row of grad times the blended row under the column taps, where a lane reads a pixel at all.
template <typename A>
typename Simd<A>::vec correlate(const A* grad, int64_t grad_step, const A* blended, const ColumnWeights<A>& weights,
                                const Extent& extent, const A* inside, typename Lanes<A>::mask line) {
  using vec = typename Simd<A>::vec;
  vec sum = {};
  blend_columns<1>(blended, weights, extent.out[2], extent.stride[2], [&](int64_t i, vec value) ASL_LAMBDA_INLINE {
    typename Lanes<A>::mask here;
    __builtin_memcpy(&here, inside + i * Simd<A>::lanes, sizeof(here));
    sum = Lanes<A>::add(sum, here & line, load(grad + i * grad_step), value);
  });
  return sum;
}

// Adds the adjoint of one output row, whose gradient lies spread out by the stride.
template <typename A>
void add_adjoint(A* grad_input, int64_t input_step, const A* spread, const Line<A>& line,
                 const ColumnWeights<A>& columns, int64_t width) {
  using vec = typename Simd<A>::vec;
  blend_columns<-1>(spread, columns, width, 1, [&](int64_t i, vec value) ASL_LAMBDA_INLINE {
    for (int t = 0; t < line.count; ++t) {
      A* to = grad_input + (line.row[t] * width + i) * input_step;
      save(to, Lanes<A>::add(load(to), line.lanes[t], load(line.weight[t]), value));
    }
  });
}

constexpr int64_t kFlush = 1024;  // terms that a lane sums in its own type

template <typename A>
void backward(A* grad_input, int64_t input_step, double* sums, const A* grad, int64_t grad_step, const A* x, int64_t x_step,
              const LaneTaps<A>& taps, const Extent& extent, A* scratch) {
  using vec = typename Simd<A>::vec;
  constexpr int lanes = Simd<A>::lanes;
  const int64_t width = extent.size[2], out_width = extent.out[2], step = extent.stride[2];
  RowWeights<A> rows, row_slopes[2];
  ColumnWeights<A> columns, column_slopes;
  sampling(taps, rows, columns);
  A* blended = padded_row(scratch, taps, extent);
  // No column tap reaches further than a row's width.
  const int64_t spread_length = (2 * width + taps.left + out_width * step) * lanes;
  A* spread = scratch + width * lanes;
  clear(scratch, spread_length);
  scratch += spread_length;
  A* inside_sampled = scratch;
  A* inside_sloped = scratch + out_width * lanes;
  if (sums != nullptr) {
    for (int t = 0; t < taps.row_count; ++t) {
      for (int axis = 0; axis < 2; ++axis) row_slopes[axis].add(taps.rows[t], taps.rows[t].slope[axis]);
    }
    for (int t = 0; t < taps.column_count; ++t) column_slopes.add(taps.columns[t], taps.columns[t].slope[0]);
    find_inside(inside_sampled, columns, extent);
    find_inside(inside_sloped, column_slopes, extent);
  }
  if (grad_input != nullptr) {
    const int64_t pixels = extent.size[0] * extent.size[1] * width;
    for (int64_t p = 0; p < pixels; ++p) save(grad_input + p * input_step, vec{});
  }
  vec sum[3] = {};
  int64_t terms = 0;
  Line<A> line, sloped;
  for (int64_t z = 0; z < extent.out[0]; ++z) {
    for (int64_t y = 0; y < extent.out[1]; ++y, grad += out_width * grad_step) {
      line.find(rows, extent, z, y);
      if (x != nullptr) prefetch_row(x, x_step, line, extent);
      for (int64_t i = 0; i < out_width; ++i) __builtin_prefetch(grad + (out_width + i) * grad_step);
      if (grad_input != nullptr && line.count > 0) {
        for (int64_t i = 0; i < out_width; ++i) save(spread + i * step * lanes, load(grad + i * grad_step));
        add_adjoint(grad_input, input_step, spread, line, columns, width);
      }
      if (sums == nullptr) continue;
      for (int axis = 0; axis < 2; ++axis) {
        if (row_slopes[axis].count == 0) continue;
        sloped.find(row_slopes[axis], extent, z, y);
        if (sloped.count == 0) continue;
        blend_rows(blended, x, x_step, sloped, width);
        sum[axis] += correlate(grad, grad_step, blended, columns, extent, inside_sampled, sloped.any);
      }
      if (line.count > 0) {
        blend_rows(blended, x, x_step, line, width);
        sum[2] += correlate(grad, grad_step, blended, column_slopes, extent, inside_sloped, line.any);
      }
      terms += out_width;
      if (terms < kFlush && (z + 1 < extent.out[0] || y + 1 < extent.out[1])) continue;
      terms = 0;
      for (int axis = 0; axis < 3; ++axis) {
        for (int lane = 0; lane < lanes; ++lane) sums[axis * lanes + lane] += static_cast<double>(sum[axis][lane]);
        sum[axis] = vec{};
      }
    }
  }
}

template <typename T>
constexpr LaneLoops<T> make() {
  using A = compute_t<T>;
  return {Simd<A>::lanes, gather<T>, scatter<T>, scatter_add<A>, sample<A>, backward<A>};
}

}  // namespace

#define ASL_JOIN_(a, b) a##b
#define ASL_JOIN(a, b) ASL_JOIN_(a, b)
extern const LaneLoops<float> ASL_JOIN(float_lanes_, ASL_ISA);
extern const LaneLoops<double> ASL_JOIN(double_lanes_, ASL_ISA);
extern const LaneLoops<BFloat16> ASL_JOIN(bfloat16_lanes_, ASL_ISA);
const LaneLoops<float> ASL_JOIN(float_lanes_, ASL_ISA) = make<float>();
const LaneLoops<double> ASL_JOIN(double_lanes_, ASL_ISA) = make<double>();
const LaneLoops<BFloat16> ASL_JOIN(bfloat16_lanes_, ASL_ISA) = make<BFloat16>();

}  // namespace asl
