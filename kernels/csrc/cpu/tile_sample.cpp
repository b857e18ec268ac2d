// Samples a block of sixteen rows under a tile: first the y taps of every image column that is needed, then the x taps.
#include "simd.h"
#include "tile_isa.h"

namespace asl {
namespace {

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// Columns that are summed at a time; a tile's row of any stride is cut to fit.
constexpr int64_t kColumns = 64;

// Which lanes read a tap. What the others would have read must not reach a sum: zero times infinity is not zero.
#if defined(__AVX512F__)
typedef __mmask16 Lanes;
ASL_INLINE Lanes lanes_of(vec weight) {
  return _mm512_cmp_ps_mask((__m512)weight, _mm512_setzero_ps(), _CMP_NEQ_UQ);
}
ASL_INLINE vec times(Lanes lanes, vec weight, vec value) {
  return (vec)_mm512_maskz_mul_ps(lanes, (__m512)weight, (__m512)value);
}
ASL_INLINE vec add(vec sum, Lanes lanes, vec weight, vec value) {
  return (vec)_mm512_mask3_fmadd_ps((__m512)weight, (__m512)value, (__m512)sum, lanes);
}
// Straight from memory, where the masked lanes are not even read; the compiler would load them with one more step.
ASL_INLINE vec times_at(Lanes lanes, vec weight, const float* src) {
  vec result;
  asm("vmulps %1, %2, %0 %{%3%}%{z%}"
      : "=v"(result)
      : "m"(*reinterpret_cast<const vec_in_memory*>(src)), "v"(weight), "Yk"(lanes));
  return result;
}
ASL_INLINE vec add_at(vec sum, Lanes lanes, vec weight, const float* src) {
  asm("vfmadd231ps %1, %2, %0 %{%3%}"
      : "+v"(sum)
      : "m"(*reinterpret_cast<const vec_in_memory*>(src)), "v"(weight), "Yk"(lanes));
  return sum;
}
#else
typedef ints Lanes;
ASL_INLINE Lanes lanes_of(vec weight) { return weight != vec{}; }
ASL_INLINE vec only(Lanes lanes, vec value) { return (vec)((ints)value & lanes); }
ASL_INLINE vec times(Lanes lanes, vec weight, vec value) { return weight * only(lanes, value); }
ASL_INLINE vec add(vec sum, Lanes lanes, vec weight, vec value) { return sum + weight * only(lanes, value); }
ASL_INLINE vec times_at(Lanes lanes, vec weight, const float* src) { return times(lanes, weight, load(src)); }
ASL_INLINE vec add_at(vec sum, Lanes lanes, vec weight, const float* src) { return add(sum, lanes, weight, load(src)); }
#endif

// Rows that read consecutive channels: one vector, read in place.
struct Consecutive {
  int64_t channel;
  Consecutive(const ChannelBlock& block, int64_t, int lane) : channel(block.channel + lane) {}
  ASL_INLINE vec first(Lanes lanes, vec weight, const float* pixel) const {
    return times_at(lanes, weight, pixel + channel);
  }
  ASL_INLINE vec next(vec sum, Lanes lanes, vec weight, const float* pixel) const {
    return add_at(sum, lanes, weight, pixel + channel);
  }
};

// Rows that read any channels.
#if defined(__AVX512F__)
struct Windows {
  int64_t count;
  int64_t channel[kBlock];
  Lanes rows[kBlock];
  __mmask16 there[kBlock];  // channels of the window that a pixel has
  __m512i index;
  Windows(const ChannelBlock& block, int64_t channels, int) : count(block.windows) {
    index = _mm512_loadu_si512(block.index);
    for (int64_t w = 0; w < count; ++w) {
      channel[w] = block.window[w];
      rows[w] = block.window_rows[w];
      there[w] = static_cast<__mmask16>((1u << least(kBlock, channels - channel[w])) - 1u);
    }
  }
  ASL_INLINE vec fetch(const float* pixel) const {
    __m512 value = _mm512_maskz_permutexvar_ps(rows[0], index, _mm512_maskz_loadu_ps(there[0], pixel + channel[0]));
    for (int64_t w = 1; w < count; ++w) {
      value = _mm512_mask_permutexvar_ps(value, rows[w], index, _mm512_maskz_loadu_ps(there[w], pixel + channel[w]));
    }
    return (vec)value;
  }
#else
struct Windows {
  const int32_t* source;
  Windows(const ChannelBlock& block, int64_t, int lane) : source(block.source + lane) {}
  ASL_INLINE vec fetch(const float* pixel) const {
    vec value;
    for (int i = 0; i < kLanes; ++i) value[i] = pixel[source[i]];
    return value;
  }
#endif
  ASL_INLINE vec first(Lanes lanes, vec weight, const float* pixel) const { return times(lanes, weight, fetch(pixel)); }
  ASL_INLINE vec next(vec sum, Lanes lanes, vec weight, const float* pixel) const {
    return add(sum, lanes, weight, fetch(pixel));
  }
};

// The image rows under an output row that exist, and their weights.
struct Line {
  int64_t count = 0;
  const float* row[kMostTaps];
  const float* weight[kMostTaps];
  int64_t channels;
};

// columns[i] = sum over the line's rows at image column first + i, for i in [begin, end).
template <int N, typename Source>
void sum_rows(float* columns, const Line& line, const Source& source, int lane, int64_t first, int64_t begin,
              int64_t end) {
  const int count = N > 0 ? N : static_cast<int>(line.count);
  constexpr int kRoom = N > 0 ? N : static_cast<int>(kMostTaps);
  vec weight[kRoom];
  Lanes lanes[kRoom];
  const float* row[kRoom];
  for (int t = 0; t < count; ++t) {
    weight[t] = load(line.weight[t] + lane);
    lanes[t] = lanes_of(weight[t]);
    row[t] = line.row[t] + first * line.channels;
  }
  for (int64_t i = begin; i < end; ++i) {
    const int64_t offset = i * line.channels;
    vec sum = source.first(lanes[0], weight[0], row[0] + offset);
    for (int t = 1; t < count; ++t) sum = source.next(sum, lanes[t], weight[t], row[t] + offset);
    save(columns + i * kBlock, sum);
  }
}

// panel[p] = sum over the x taps of columns[p * stride + tap].
template <int N>
void sum_columns(float* panel, const float* columns, const AxisTaps& taps, int lane, int64_t stride, int64_t pixels) {
  const int count = N > 0 ? N : static_cast<int>(taps.count);
  constexpr int kRoom = N > 0 ? N : static_cast<int>(kMostTaps);
  vec weight[kRoom];
  Lanes lanes[kRoom];
  for (int t = 0; t < count; ++t) {
    weight[t] = load(taps.weight[t] + lane);
    lanes[t] = lanes_of(weight[t]);
  }
  for (int64_t p = 0; p < pixels; ++p, columns += stride * kBlock) {
    vec sum = times_at(lanes[0], weight[0], columns);
    for (int t = 1; t < count; ++t) sum = add_at(sum, lanes[t], weight[t], columns + t * kBlock);
    save(panel + p * kBlock, sum);
  }
}

template <typename Source>
ASL_INLINE void sum_any_rows(float* columns, const Line& line, const Source& source, int lane, int64_t first,
                             int64_t begin, int64_t end) {
  switch (line.count) {
    case 1:
      return sum_rows<1>(columns, line, source, lane, first, begin, end);
    case 2:
      return sum_rows<2>(columns, line, source, lane, first, begin, end);
    case 3:
      return sum_rows<3>(columns, line, source, lane, first, begin, end);
    default:
      return sum_rows<0>(columns, line, source, lane, first, begin, end);
  }
}

ASL_INLINE void sum_any_columns(float* panel, const float* columns, const AxisTaps& taps, int lane, int64_t stride,
                                int64_t pixels) {
  switch (taps.count) {
    case 1:
      return sum_columns<1>(panel, columns, taps, lane, stride, pixels);
    case 2:
      return sum_columns<2>(panel, columns, taps, lane, stride, pixels);
    case 3:
      return sum_columns<3>(panel, columns, taps, lane, stride, pixels);
    default:
      return sum_columns<0>(panel, columns, taps, lane, stride, pixels);
  }
}

// Both at once at stride 1 for few taps: the columns under a pixel's x taps wait in registers.
template <int NY, int NX, typename Source>
void slide(float* panel, const Line& line, const Source& source, const AxisTaps& taps, int lane, int64_t first,
           int64_t width, int64_t pixels) {
  vec y_weight[NY], x_weight[NX];
  Lanes y_lanes[NY], x_lanes[NX];
  const float* row[NY];
#pragma GCC unroll 4
  for (int t = 0; t < NY; ++t) {
    y_weight[t] = load(line.weight[t] + lane);
    y_lanes[t] = lanes_of(y_weight[t]);
    row[t] = line.row[t];
  }
#pragma GCC unroll 4
  for (int t = 0; t < NX; ++t) {
    x_weight[t] = load(taps.weight[t] + lane);
    x_lanes[t] = lanes_of(x_weight[t]);
  }
  const auto column = [&](int64_t at) {
    const int64_t offset = at * line.channels;
    vec sum = source.first(y_lanes[0], y_weight[0], row[0] + offset);
#pragma GCC unroll 4
    for (int t = 1; t < NY; ++t) sum = source.next(sum, y_lanes[t], y_weight[t], row[t] + offset);
    return sum;
  };
  vec window[NX];
  const auto emit = [&](vec newest) {
    window[NX - 1] = newest;
    vec sum = times(x_lanes[0], x_weight[0], window[0]);
#pragma GCC unroll 4
    for (int t = 1; t < NX; ++t) sum = add(sum, x_lanes[t], x_weight[t], window[t]);
    save(panel, sum);
    panel += kBlock;
#pragma GCC unroll 4
    for (int t = 0; t + 1 < NX; ++t) window[t] = window[t + 1];
  };
#pragma GCC unroll 4
  for (int t = 0; t + 1 < NX; ++t) window[t] = first + t >= 0 && first + t < width ? column(first + t) : vec{};
  int64_t at = first + NX - 1;
  const int64_t end = at + pixels, inside = least(end, width);
  for (; at < least(end, 0); ++at) emit(vec{});
  for (; at < inside; ++at) emit(column(at));
  for (; at < end; ++at) emit(vec{});
}

template <typename Source>
using Slide = void (*)(float*, const Line&, const Source&, const AxisTaps&, int, int64_t, int64_t, int64_t);
template <typename Source>
constexpr Slide<Source> kSlides[3][3] = {{slide<1, 1, Source>, slide<1, 2, Source>, slide<1, 3, Source>},
                                         {slide<2, 1, Source>, slide<2, 2, Source>, slide<2, 3, Source>},
                                         {slide<3, 1, Source>, slide<3, 2, Source>, slide<3, 3, Source>}};

// Output columns [x0, x0 + pixels) of one output row.
template <typename Source>
ASL_INLINE void sample_run(float* panel, const Image& image, const ChannelBlock& block, const Line& line, int64_t x0,
                           int64_t pixels) {
  const int64_t width = image.extent.size[2], stride = image.extent.stride[2];
  const int64_t first = x0 * stride + block.x.first;
  if (stride == 1 && line.count <= 3 && block.x.count <= 3) {
    for (int lane = 0; lane < kBlock; lane += kLanes) {
      kSlides<Source>[line.count - 1][block.x.count - 1](panel + lane, line, Source(block, image.channels, lane),
                                                         block.x, lane, first, width, pixels);
    }
    return;
  }
  const int64_t count = (pixels - 1) * stride + block.x.count;
  const int64_t begin = least(count, first < 0 ? -first : 0);
  const int64_t there = width - first, end = there < begin ? begin : least(count, there);
  alignas(64) float columns[kColumns * kBlock];
  for (int lane = 0; lane < kBlock; lane += kLanes) {
    for (int64_t i = 0; i < begin; ++i) save(columns + i * kBlock, vec{});
    for (int64_t i = end; i < count; ++i) save(columns + i * kBlock, vec{});
    sum_any_rows(columns, line, Source(block, image.channels, lane), lane, first, begin, end);
    sum_any_columns(panel + lane, columns, block.x, lane, stride, pixels);
  }
}

void sample(float* panel, const Image& image, const ChannelBlock& block, const Tile& tile) {
  const Extent& extent = image.extent;
  const int64_t height = extent.size[1], width = extent.size[2];
#if defined(__AVX512F__)
  const bool in_place = block.channel >= 0;
#else
  // Only masked loads may reach past a pixel's last channel.
  const bool in_place = block.channel >= 0 && block.present == kBlock;
#endif
  const bool fits = (tile.width - 1) * extent.stride[2] + block.x.count <= kColumns;
  const int64_t room = fits ? tile.width : (kColumns - block.x.count) / extent.stride[2] + 1;
  Line line;
  line.channels = image.channels;
  for (int64_t y = tile.y0; y < tile.y0 + tile.height; ++y, panel += tile.width * kBlock) {
    line.count = 0;
    for (int64_t t = 0; t < block.y.count; ++t) {
      const int64_t at = y * extent.stride[1] + block.y.first + t;
      if (at < 0 || at >= height) continue;
      line.row[line.count] = image.data + at * width * image.channels;
      line.weight[line.count++] = block.y.weight[t];
    }
    if (line.count == 0 || block.x.count == 0) {
      __builtin_memset(panel, 0, static_cast<unsigned long>(tile.width * kBlock) * sizeof(float));
      continue;
    }
    for (int64_t x = 0; x < tile.width; x += room) {
      const int64_t pixels = least(room, tile.width - x);
      if (in_place) {
        sample_run<Consecutive>(panel + x * kBlock, image, block, line, tile.x0 + x, pixels);
      } else {
        sample_run<Windows>(panel + x * kBlock, image, block, line, tile.x0 + x, pixels);
      }
    }
  }
}

}  // namespace

void ASL_JOIN(tile_sample_, ASL_ISA)(float* panel, const Image& image, const ChannelBlock& block, const Tile& tile) {
  sample(panel, image, block, tile);
}

}  // namespace asl
