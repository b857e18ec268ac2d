// The inner loops in the compiler's vector types. Built once per instruction set with ASL_ISA naming the copy.
//
// Includes nothing with inline functions (intrinsics are always inlined): a copy of such a function compiled for a newer instruction set could be the
// one the linker keeps for every machine.
#include "loops.h"

#include "vector_size.h"

namespace asl {
namespace {

#include "simd.inc"

// Output positions [first, last) whose tap at this offset lies inside the axis.
struct Range {
  int64_t first, last;
};
inline Range inside(int64_t offset, int64_t size, int64_t out, int64_t stride) {
  const int64_t first = most(0, ceil_div(-offset, stride));
  const int64_t last = least(out, ceil_div(size - offset, stride));
  return {first, most(first, last)};
}

// One run of flattened pixels with the same R image rows under it. The loads may wrap into the neighbouring image row
// (inside the plane); the column masks drop what they brought.
template <int R, int X, bool kMask, bool kAdd, typename T, typename D, typename A>
void run(D* dst, const T* const* src, const A (*weight)[2], const int64_t* dx,
         const typename Lane<A>::mask* const* masks, int64_t count, int64_t safe_first, int64_t safe_last) {
  constexpr int lanes = Simd<A>::lanes;
  const auto one = [&](int64_t i) {
    A total = 0;
    for (int c = 0; c < X; ++c) {
      if (kMask && masks[c][i] == 0) continue;
      for (int r = 0; r < R; ++r) total += weight[r][c] * widen(src[r][i + dx[c]]);
    }
    if constexpr (kAdd) {
      dst[i] += total;
    } else {
      narrow(dst + i, total);
    }
  };
  int64_t i = 0;
  for (; i < safe_first; ++i) one(i);
  const auto vector = [&](int64_t at) {
    typename Simd<A>::vec total;
    for (int c = 0; c < X; ++c) {
      typename Simd<A>::vec column = weight[0][c] * load(src[0] + at + dx[c]);
      for (int r = 1; r < R; ++r) column += weight[r][c] * load(src[r] + at + dx[c]);
      if constexpr (kMask) {
        column = (typename Simd<A>::vec)((typename Simd<A>::mask)column & load_mask<A>(masks[c] + at));
      }
      total = c == 0 ? column : total + column;
    }
    if constexpr (kAdd) {
      save(dst + at, load(dst + at) + total);
    } else {
      save(dst + at, total);
    }
  };
  for (; i + lanes <= safe_last; i += lanes) vector(i);
  if constexpr (!kAdd) {
    // Writing some pixels twice is cheaper than finishing one by one.
    if (i < safe_last && i - safe_first >= lanes) {
      vector(safe_last - lanes);
      i = safe_last;
    }
  }
  for (; i < count; ++i) one(i);
}

template <bool kAdd, typename T, typename D, typename A>
void run_any(int rows, int columns, D* dst, const T* const* src, const A (*weight)[2], const int64_t* dx,
             const typename Lane<A>::mask* const* masks, int64_t count, int64_t safe_first, int64_t safe_last) {
#define ASL_RUN(R, X, M) run<R, X, M, kAdd>(dst, src, weight, dx, masks, count, safe_first, safe_last)
#define ASL_RUN_ROWS(X, M) (rows == 1 ? ASL_RUN(1, X, M) : rows == 2 ? ASL_RUN(2, X, M) : ASL_RUN(4, X, M))
  if (columns == 2) {
    ASL_RUN_ROWS(2, true);
  } else if (dx[0] != 0) {
    ASL_RUN_ROWS(1, true);
  } else {
    ASL_RUN_ROWS(1, false);
  }
#undef ASL_RUN_ROWS
#undef ASL_RUN
}

template <bool kAdd, typename D>
void put_zero(D* dst, int64_t count) {
  if constexpr (!kAdd) __builtin_memset(dst, 0, sizeof(D) * static_cast<unsigned long>(count));
}

template <bool kAdd, typename T, typename D, typename A>
void sample_flat(D* dst, const T* plane, const Taps<A>& taps, const Extent& extent, const ColumnMasks<A>& masks,
                 int64_t begin, int64_t end) {
  const int64_t width = extent.size[2];
  const int64_t slice = extent.size[1] * width;
  const int64_t out_slice = extent.out[1] * width;
  int64_t dx[2];
  int column_of[2];
  int columns = 0;
  for (int c = 0; c < taps.count[2]; ++c) {
    if (taps.offset[2][c] <= -width || taps.offset[2][c] >= width) continue;
    column_of[columns] = c;
    dx[columns++] = taps.offset[2][c];
  }
  Range valid[2] = {{0, 0}, {0, 0}};
  for (int t = 0; t < taps.count[1]; ++t) valid[t] = inside(taps.offset[1][t], extent.size[1], extent.out[1], 1);

  for (int64_t at = begin; at < end;) {
    const int64_t z = at / out_slice;
    const int64_t in_slice = at - z * out_slice;
    const int64_t row = in_slice / width;
    int64_t next_row = extent.out[1];
    const T* src[4];
    A weight[4][2];
    int rows = 0;
    int64_t lowest = slice, highest = 0;
    for (int t = 0; t < taps.count[1]; ++t) {
      if (row < valid[t].first) next_row = least(next_row, valid[t].first);
      if (row < valid[t].first || row >= valid[t].last) continue;
      next_row = least(next_row, valid[t].last);
      for (int d = 0; d < taps.count[0]; ++d) {
        const int64_t depth = z * extent.stride[0] + taps.offset[0][d];
        if (depth < 0 || depth >= extent.size[0]) continue;
        const int64_t position = in_slice + taps.offset[1][t] * width;
        lowest = least(lowest, position);
        highest = most(highest, position);
        src[rows] = plane + depth * slice + position;
        for (int c = 0; c < columns; ++c) {
          weight[rows][c] = taps.weight[0][d] * taps.weight[1][t] * taps.weight[2][column_of[c]];
        }
        ++rows;
      }
    }
    const int64_t stop = least(end, z * out_slice + next_row * width);
    int64_t count = stop - at;
    if (rows == 0 || columns == 0) {
      put_zero<kAdd>(dst + (at - begin), count);
    } else {
      count = least(count, ColumnMasks<A>::kRun);
      const typename Lane<A>::mask* column_masks[2];
      int64_t first = 0, last = count;
      for (int c = 0; c < columns; ++c) {
        column_masks[c] = masks.at(dx[c]) + (in_slice - row * width);
        first = most(first, -(lowest + dx[c]));
        last = least(last, slice - highest - dx[c]);
      }
      first = least(first, count);
      run_any<kAdd>(rows, columns, dst + (at - begin), src, weight, dx, column_masks, count, first, most(first, last));
    }
    at += count;
  }
}

// Any stride and any output width, image row by image row through a small buffer.
template <bool kAdd, typename T, typename D, typename A>
void sample_rows(D* dst, const T* plane, const Taps<A>& taps, const Extent& extent, int64_t begin, int64_t end) {
  constexpr int64_t kBuffer = 256;
  A buffer[kBuffer];
  const int64_t width = extent.size[2];
  const int64_t step = extent.stride[2];
  for (int64_t at = begin; at < end;) {
    const int64_t line = at / extent.out[2];
    const int64_t column = at - line * extent.out[2];
    const int64_t z = line / extent.out[1];
    const int64_t y = line - z * extent.out[1];
    const int64_t count = least(least(end - at, extent.out[2] - column), kBuffer);
    for (int64_t i = 0; i < count; ++i) buffer[i] = 0;
    for (int d = 0; d < taps.count[0]; ++d) {
      const int64_t depth = z * extent.stride[0] + taps.offset[0][d];
      if (depth < 0 || depth >= extent.size[0]) continue;
      for (int t = 0; t < taps.count[1]; ++t) {
        const int64_t height = y * extent.stride[1] + taps.offset[1][t];
        if (height < 0 || height >= extent.size[1]) continue;
        const T* src = plane + (depth * extent.size[1] + height) * width;
        for (int c = 0; c < taps.count[2]; ++c) {
          const A weight = taps.weight[0][d] * taps.weight[1][t] * taps.weight[2][c];
          const Range range = inside(taps.offset[2][c], width, extent.out[2], step);
          const int64_t first = most(range.first - column, 0);
          const int64_t last = least(range.last - column, count);
          const int64_t start = column * step + taps.offset[2][c];
          if (step == 1) {
            for (int64_t i = first; i < last; ++i) buffer[i] += weight * widen(src[start + i]);
          } else {
            for (int64_t i = first; i < last; ++i) buffer[i] += weight * widen(src[start + i * step]);
          }
        }
      }
    }
    D* target = dst + (at - begin);
    for (int64_t i = 0; i < count; ++i) {
      if constexpr (kAdd) {
        target[i] += buffer[i];
      } else {
        narrow(target + i, buffer[i]);
      }
    }
    at += count;
  }
}

#if defined(__AVX512F__)
#include "masked.inc"
#endif

template <typename T>
void sample(T* dst, const T* plane, const Taps<compute_t<T>>& taps, const Extent& extent,
            const Masks<compute_t<T>>& masks, int64_t begin, int64_t end, [[maybe_unused]] const T* ahead) {
#if defined(__AVX512F__)
  if (masks.pixels.usable()) return sample_masked<false>(dst, plane, taps, extent, masks.pixels, begin, end, ahead);
#endif
  if (masks.columns.usable()) {
    sample_flat<false>(dst, plane, taps, extent, masks.columns, begin, end);
  } else {
    sample_rows<false>(dst, plane, taps, extent, begin, end);
  }
}

template <typename T>
void sample_add(compute_t<T>* dst, const T* plane, const Taps<compute_t<T>>& taps, const Extent& extent,
                const Masks<compute_t<T>>& masks, int64_t begin, int64_t end, [[maybe_unused]] const T* ahead) {
#if defined(__AVX512F__)
  if (masks.pixels.usable()) return sample_masked<true>(dst, plane, taps, extent, masks.pixels, begin, end, ahead);
#endif
  if (masks.columns.usable()) {
    sample_flat<true>(dst, plane, taps, extent, masks.columns, begin, end);
  } else {
    sample_rows<true>(dst, plane, taps, extent, begin, end);
  }
}

// Sum of grad[i] * src[i + dx] over a run; see `run` for the wrapped loads.
template <bool kMask, typename T, typename A>
double dot(const T* grad, const T* src, int64_t dx, const typename Lane<A>::mask* mask, int64_t count,
           int64_t safe_first, int64_t safe_last) {
  constexpr int lanes = Simd<A>::lanes;
  double ends = 0;
  const auto one = [&](int64_t i) {
    if (!kMask || mask[i] != 0) ends += static_cast<double>(widen(grad[i]) * widen(src[i + dx]));
  };
  int64_t i = 0;
  for (; i < safe_first; ++i) one(i);
  typename Simd<A>::vec sums[4] = {};
  const auto vector = [&](int64_t at, typename Simd<A>::vec& sum) {
    typename Simd<A>::vec value = load(src + at + dx);
    if constexpr (kMask) {
      // The product must be masked, not one factor: the other may be infinite.
      const typename Simd<A>::vec product = value * load(grad + at);
      sum += (typename Simd<A>::vec)((typename Simd<A>::mask)product & load_mask<A>(mask + at));
    } else {
      sum += value * load(grad + at);
    }
  };
  for (; i + 4 * lanes <= safe_last; i += 4 * lanes) {
    for (int part = 0; part < 4; ++part) vector(i + part * lanes, sums[part]);
  }
  for (; i + lanes <= safe_last; i += lanes) vector(i, sums[0]);
  for (; i < count; ++i) one(i);
  const typename Simd<A>::vec sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  double total = 0;
  for (int lane = 0; lane < lanes; ++lane) total += static_cast<double>(sum[lane]);
  return total + ends;
}

template <typename T>
double correlate_flat(const T* grad, const T* plane, const int64_t offset[3], const Extent& extent,
                      const ColumnMasks<compute_t<T>>& masks, int64_t begin, int64_t end) {
  using A = compute_t<T>;
  const int64_t width = extent.size[2];
  const int64_t slice = extent.size[1] * width;
  const int64_t out_slice = extent.out[1] * width;
  if (offset[2] <= -width || offset[2] >= width) return 0;
  const Range heights = inside(offset[1], extent.size[1], extent.out[1], 1);
  double total = 0;
  for (int64_t z = begin / out_slice; z * out_slice < end; ++z) {
    const int64_t depth = z * extent.stride[0] + offset[0];
    if (depth < 0 || depth >= extent.size[0]) continue;
    int64_t at = most(begin, z * out_slice + heights.first * width);
    const int64_t stop = least(end, z * out_slice + heights.last * width);
    while (at < stop) {
      const int64_t count = least(stop - at, ColumnMasks<A>::kRun);
      const int64_t in_slice = at - z * out_slice;
      const int64_t position = in_slice + offset[1] * width;
      const int64_t first = least(count, most(0, -(position + offset[2])));
      const int64_t last = most(first, least(count, slice - position - offset[2]));
      const T* src = plane + depth * slice + position;
      if (offset[2] == 0) {
        total += dot<false, T, A>(grad + at, src, 0, nullptr, count, first, last);
      } else {
        total += dot<true, T, A>(grad + at, src, offset[2], masks.at(offset[2]) + in_slice % width, count, first, last);
      }
      at += count;
    }
  }
  return total;
}

template <typename T>
double correlate(const T* grad, const T* plane, const int64_t offset[3], const Extent& extent,
                 const Masks<compute_t<T>>& masks, int64_t begin, int64_t end) {
  using A = compute_t<T>;
#if defined(__AVX512F__)
  if (masks.pixels.usable()) return correlate_masked(grad, plane, offset, extent, masks.pixels, begin, end);
#endif
  if (masks.columns.usable()) return correlate_flat(grad, plane, offset, extent, masks.columns, begin, end);
  const Range columns = inside(offset[2], extent.size[2], extent.out[2], extent.stride[2]);
  double total = 0;
  for (int64_t at = begin; at < end;) {
    const int64_t line = at / extent.out[2];
    const int64_t column = at - line * extent.out[2];
    const int64_t count = least(end - at, extent.out[2] - column);
    const int64_t z = line / extent.out[1];
    const int64_t depth = z * extent.stride[0] + offset[0];
    const int64_t height = (line - z * extent.out[1]) * extent.stride[1] + offset[1];
    if (depth >= 0 && depth < extent.size[0] && height >= 0 && height < extent.size[1]) {
      const T* from = grad + line * extent.out[2];
      const T* src = plane + (depth * extent.size[1] + height) * extent.size[2] + offset[2];
      const int64_t first = most(columns.first, column);
      const int64_t last = least(columns.last, column + count);
      if (extent.stride[2] == 1 && last > first) {
        total += dot<false, T, A>(from + first, src + first, 0, nullptr, last - first, 0, last - first);
      } else {
        for (int64_t i = first; i < last; ++i) {
          total += static_cast<double>(widen(from[i]) * widen(src[i * extent.stride[2]]));
        }
      }
    }
    at += count;
  }
  return total;
}

template <typename T>
void store(T* dst, const compute_t<T>* src, int64_t count) {
  for (int64_t i = 0; i < count; ++i) narrow(dst + i, src[i]);
}

template <typename A>
ASL_INLINE A rectify(A value) {
  return value < 0 ? A(0) : value;
}

template <typename T>
void epilogue(T* dst, int64_t dst_step, const T* src, int64_t src_step, const T* bias, bool relu, int64_t rows,
              int64_t columns) {
  using A = compute_t<T>;
  for (int64_t r = 0; r < rows; ++r) {
    const T* from = src + r * src_step;
    T* to = dst + r * dst_step;
    const A shift = bias == nullptr ? A(0) : widen(bias[r]);
    if (relu) {
      for (int64_t c = 0; c < columns; ++c) narrow(to + c, rectify<A>(widen(from[c]) + shift));
    } else {
      for (int64_t c = 0; c < columns; ++c) narrow(to + c, widen(from[c]) + shift);
    }
  }
}

template <typename T>
void epilogue_last(T* data, const T* bias, bool relu, int64_t rows, int64_t columns) {
  using A = compute_t<T>;
  for (int64_t r = 0; r < rows; ++r) {
    T* row = data + r * columns;
    if (bias != nullptr) {
      for (int64_t c = 0; c < columns; ++c) {
        const A value = widen(row[c]) + widen(bias[c]);
        narrow(row + c, relu ? rectify<A>(value) : value);
      }
    } else if (relu) {
      for (int64_t c = 0; c < columns; ++c) narrow(row + c, rectify<A>(widen(row[c])));
    }
  }
}

}  // namespace

#define ASL_JOIN_(a, b) a##b
#define ASL_JOIN(a, b) ASL_JOIN_(a, b)
#if defined(__AVX512F__)
#define ASL_LOOPS(T, name)                                                                            \
  extern const LaneLoops<T> ASL_JOIN(name##_lanes_, ASL_ISA);                                         \
  extern const Loops<T> ASL_JOIN(name##_loops_, ASL_ISA);                                             \
  const Loops<T> ASL_JOIN(name##_loops_, ASL_ISA) = {sample<T>,   sample_add<T>,    correlate<T>,       \
                                                     store<T>,    epilogue<T>,      epilogue_last<T>,   \
                                                     multiply_column<T>, &ASL_JOIN(name##_lanes_, ASL_ISA), true};
#else
#define ASL_LOOPS(T, name)                                                                            \
  extern const LaneLoops<T> ASL_JOIN(name##_lanes_, ASL_ISA);                                         \
  extern const Loops<T> ASL_JOIN(name##_loops_, ASL_ISA);                                             \
  const Loops<T> ASL_JOIN(name##_loops_, ASL_ISA) = {sample<T>, sample_add<T>,    correlate<T>,       \
                                                     store<T>,  epilogue<T>,      epilogue_last<T>,   \
                                                     nullptr,   &ASL_JOIN(name##_lanes_, ASL_ISA), false};
#endif
ASL_LOOPS(float, float)
ASL_LOOPS(double, double)
ASL_LOOPS(BFloat16, bfloat16)

}  // namespace asl
