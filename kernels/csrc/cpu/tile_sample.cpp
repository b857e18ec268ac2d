// Samples a block of sixteen rows under a tile: first the y taps of every image column that is needed, then the x taps.
#include "simd.h"
#include "tile_isa.h"

namespace asl {
namespace {

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

// How the sixteen rows of a block get at their channels of a pixel. Each says from where in a pixel it reads, and gives
// the weighted channels of one tap there, or adds them to a sum.
struct Consecutive {  // one vector, read in place
  int64_t channel;
  Consecutive(const ChannelBlock& block, int64_t, int lane) : channel(block.channel + lane) {}
  ASL_INLINE const float* origin(const float* pixel) const { return pixel + channel; }
  ASL_INLINE vec first(Lanes lanes, vec weight, const float* at) const { return times_at(lanes, weight, at); }
  ASL_INLINE vec next(vec sum, Lanes lanes, vec weight, const float* at) const {
    return add_at(sum, lanes, weight, at);
  }
};

#define ASL_FETCHED                                                                                                \
  ASL_INLINE vec first(Lanes lanes, vec weight, const float* at) const { return times(lanes, weight, fetch(at)); } \
  ASL_INLINE vec next(vec sum, Lanes lanes, vec weight, const float* at) const {                                   \
    return add(sum, lanes, weight, fetch(at));                                                                     \
  }

#if defined(__AVX512F__)
struct OneWindow {
  int64_t channel;
  __m512i index;
  OneWindow(const ChannelBlock& block, int64_t, int)
      : channel(block.window[0]), index(_mm512_loadu_si512(block.index)) {}
  ASL_INLINE const float* origin(const float* pixel) const { return pixel + channel; }
  ASL_INLINE vec fetch(const float* at) const { return (vec)_mm512_permutexvar_ps(index, _mm512_loadu_ps(at)); }
  ASL_FETCHED
};

struct TwoWindows {
  int64_t channel, second;
  __m512i index;
  TwoWindows(const ChannelBlock& block, int64_t, int)
      : channel(block.window[0]), second(block.window[1] - block.window[0]) {
    // Bit 4 chooses the second.
    index = _mm512_mask_add_epi32(_mm512_loadu_si512(block.index), block.window_rows[1],
                                  _mm512_loadu_si512(block.index), _mm512_set1_epi32(kBlock));
  }
  ASL_INLINE const float* origin(const float* pixel) const { return pixel + channel; }
  ASL_INLINE vec fetch(const float* at) const {
    return (vec)_mm512_permutex2var_ps(_mm512_loadu_ps(at), index, _mm512_loadu_ps(at + second));
  }
  ASL_FETCHED
};

struct AnyChannels {
  int64_t count;
  int64_t channel[kBlock];
  Lanes rows[kBlock];
  __mmask16 there[kBlock];  // channels of the window that a pixel has
  __m512i index;
  AnyChannels(const ChannelBlock& block, int64_t channels, int) : count(block.windows) {
    index = _mm512_loadu_si512(block.index);
    for (int64_t w = 0; w < count; ++w) {
      channel[w] = block.window[w];
      rows[w] = block.window_rows[w];
      there[w] = static_cast<__mmask16>((1u << least(kBlock, channels - channel[w])) - 1u);
    }
  }
  ASL_INLINE const float* origin(const float* pixel) const { return pixel; }
  ASL_INLINE vec fetch(const float* pixel) const {
    __m512 value = _mm512_maskz_permutexvar_ps(rows[0], index, _mm512_maskz_loadu_ps(there[0], pixel + channel[0]));
    for (int64_t w = 1; w < count; ++w) {
      value = _mm512_mask_permutexvar_ps(value, rows[w], index, _mm512_maskz_loadu_ps(there[w], pixel + channel[w]));
    }
    return (vec)value;
  }
  ASL_FETCHED
};
#else
struct AnyChannels {
  const int32_t* source;
  AnyChannels(const ChannelBlock& block, int64_t, int lane) : source(block.source + lane) {}
  ASL_INLINE const float* origin(const float* pixel) const { return pixel; }
  ASL_INLINE vec fetch(const float* pixel) const {
    vec value;
    for (int i = 0; i < kLanes; ++i) value[i] = pixel[source[i]];
    return value;
  }
  ASL_FETCHED
};
typedef AnyChannels OneWindow;
typedef AnyChannels TwoWindows;
#endif
#undef ASL_FETCHED

// The image rows under an output row that exist, and their weights.
struct Line {
  int64_t count = 0;
  const float* row[kMostTaps];
  const float* weight[kMostTaps];
  int64_t channels;
};

// columns[i] = sum over the line's rows at column i, for i in [begin, end).
template <int N, typename Source>
void sum_rows(float* columns, const Line& line, const Source& source, int lane, int64_t begin, int64_t end) {
  const int count = N > 0 ? N : static_cast<int>(line.count);
  constexpr int kRoom = N > 0 ? N : static_cast<int>(kMostTaps);
  vec weight[kRoom];
  Lanes lanes[kRoom];
  const float* row[kRoom];
  for (int t = 0; t < count; ++t) {
    weight[t] = load(line.weight[t] + lane);
    lanes[t] = lanes_of(weight[t]);
    row[t] = source.origin(line.row[t]);
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
ASL_INLINE void sum_any_rows(float* columns, const Line& line, const Source& source, int lane, int64_t begin,
                             int64_t end) {
  switch (line.count) {
    case 1:
      return sum_rows<1>(columns, line, source, lane, begin, end);
    case 2:
      return sum_rows<2>(columns, line, source, lane, begin, end);
    case 3:
      return sum_rows<3>(columns, line, source, lane, begin, end);
    default:
      return sum_rows<0>(columns, line, source, lane, begin, end);
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

// Where the taps of a tile's row lie: `count` image rows from `row`, `row_step` floats apart, the first of them under the
// block's tap `first_tap`; of the `columns` image columns from there, only [begin, end) exist.
struct Under {
  const float* row;
  int64_t row_step, channels, first_tap, count, columns, begin, end;
};

// Both axes at once, at stride 1 and for few taps: the columns under a pixel's x taps wait in registers. Blocks that
// are alike, one after the other.
template <typename Source, int NY, int NX>
void slide(float* panel, int64_t step, const ChannelBlock* blocks, int64_t count, const Under& under) {
  const int64_t channels = under.channels, row_step = under.row_step;
  const int64_t columns = under.columns, begin = under.begin, end = under.end;
  for (int64_t b = 0; b < count; ++b, panel += step) {
    for (int lane = 0; lane < kBlock; lane += kLanes) {
      vec y_weight[NY], x_weight[NX];
      Lanes y_lanes[NY], x_lanes[NX];
#pragma GCC unroll 4
      for (int t = 0; t < NY; ++t) {
        y_weight[t] = load(blocks[b].y.weight[under.first_tap + t] + lane);
        y_lanes[t] = lanes_of(y_weight[t]);
      }
#pragma GCC unroll 4
      for (int t = 0; t < NX; ++t) {
        x_weight[t] = load(blocks[b].x.weight[t] + lane);
        x_lanes[t] = lanes_of(x_weight[t]);
      }
      const Source source(blocks[b], channels, lane);
      const float* origin = source.origin(under.row);
      float* dst = panel + lane;
      vec window[NX] = {};
      const auto column = [&](const float* at) {
        vec sum = source.first(y_lanes[0], y_weight[0], at);
#pragma GCC unroll 4
        for (int t = 1; t < NY; ++t) sum = source.next(sum, y_lanes[t], y_weight[t], at + t * row_step);
        return sum;
      };
      const auto emit = [&](vec newest) {
        window[NX - 1] = newest;
        vec sum = times(x_lanes[0], x_weight[0], window[0]);
#pragma GCC unroll 4
        for (int t = 1; t < NX; ++t) sum = add(sum, x_lanes[t], x_weight[t], window[t]);
        save(dst, sum);
        dst += kBlock;
#pragma GCC unroll 4
        for (int t = 0; t + 1 < NX; ++t) window[t] = window[t + 1];
      };
#pragma GCC unroll 4
      for (int t = 0; t + 1 < NX; ++t) window[t] = t >= begin && t < end ? column(origin + t * channels) : vec{};
      int64_t i = NX - 1;
      for (; i < begin; ++i) emit(vec{});
      for (const float* at = origin + i * channels; i < end; ++i, at += channels) emit(column(at));
      for (; i < columns; ++i) emit(vec{});
    }
  }
}

typedef void (*Slide)(float*, int64_t, const ChannelBlock*, int64_t, const Under&);
template <typename Source>
constexpr Slide kSlides[3][3] = {{slide<Source, 1, 1>, slide<Source, 1, 2>, slide<Source, 1, 3>},
                                 {slide<Source, 2, 1>, slide<Source, 2, 2>, slide<Source, 2, 3>},
                                 {slide<Source, 3, 1>, slide<Source, 3, 2>, slide<Source, 3, 3>}};

// Any stride, any number of taps, any channels: the columns of a block wait in memory.
template <typename Source>
void sample_block(float* panel, const ChannelBlock& block, const Under& under, int64_t stride, int64_t pixels) {
  Line line;
  line.channels = under.channels;
  line.count = under.count;
  for (int64_t t = 0; t < under.count; ++t) {
    line.row[t] = under.row + t * under.row_step;
    line.weight[t] = block.y.weight[under.first_tap + t];
  }
  alignas(64) float columns[kColumns * kBlock];
  for (int lane = 0; lane < kBlock; lane += kLanes) {
    for (int64_t i = 0; i < under.begin; ++i) save(columns + i * kBlock, vec{});
    for (int64_t i = under.end; i < under.columns; ++i) save(columns + i * kBlock, vec{});
    sum_any_rows(columns, line, Source(block, under.channels, lane), lane, under.begin, under.end);
    sum_any_columns(panel + lane, columns, block.x, lane, stride, pixels);
  }
}

template <typename Source>
void sample_blocks(float* panel, int64_t step, const ChannelBlock* blocks, int64_t count, const Under& under,
                   int64_t stride, int64_t pixels) {
  if (stride == 1 && under.count <= 3 && blocks->x.count <= 3) {
    return kSlides<Source>[under.count - 1][blocks->x.count - 1](panel, step, blocks, count, under);
  }
  for (int64_t b = 0; b < count; ++b) sample_block<Source>(panel + b * step, blocks[b], under, stride, pixels);
}

// Output columns [x0, x0 + pixels) of output row y.
void sample_run(float* panel, int64_t step, const Image& image, const ChannelBlock* blocks, int64_t count, int64_t y,
                int64_t x0, int64_t pixels) {
  const Extent& extent = image.extent;
  const ChannelBlock& block = *blocks;
  const int64_t width = extent.size[2], stride = extent.stride[2];
  const int64_t top = y * extent.stride[1] + block.y.first, left = x0 * stride + block.x.first;
  Under under;
  under.channels = image.channels;
  under.row_step = width * image.channels;
  under.first_tap = most(0, -top);
  under.count = most(0, least(block.y.count, extent.size[1] - top) - under.first_tap);
  under.columns = (pixels - 1) * stride + block.x.count;
  under.begin = least(under.columns, most(0, -left));
  under.end = most(under.begin, least(under.columns, width - left));
  if (under.count == 0 || block.x.count == 0) {
    for (int64_t b = 0; b < count; ++b) {
      __builtin_memset(panel + b * step, 0, static_cast<unsigned long>(pixels * kBlock) * sizeof(float));
    }
    return;
  }
  // As an integer: a tile at the border begins left of the image, only [begin, end) is read through it.
  under.row = reinterpret_cast<const float*>(
      reinterpret_cast<intptr_t>(image.data) +
      ((top + under.first_tap) * width + left) * image.channels * static_cast<int64_t>(sizeof(float)));
  // Without masked loads no vector may reach past a pixel's last channel.
#if defined(__AVX512F__)
  const Access access = block.access;
#else
  const Access access = block.present == kBlock ? block.access : Access::any;
#endif
  switch (access) {
    case Access::consecutive:
      return sample_blocks<Consecutive>(panel, step, blocks, count, under, stride, pixels);
    case Access::one_window:
      return sample_blocks<OneWindow>(panel, step, blocks, count, under, stride, pixels);
    case Access::two_windows:
      return sample_blocks<TwoWindows>(panel, step, blocks, count, under, stride, pixels);
    case Access::any:
      return sample_blocks<AnyChannels>(panel, step, blocks, count, under, stride, pixels);
  }
}

void sample(float* panel, int64_t step, const Image& image, const ChannelBlock* blocks, int64_t count,
            const Tile& tile) {
  const int64_t stride = image.extent.stride[2];
  for (int64_t b = 0; b < count;) {
    const ChannelBlock& block = blocks[b];
    const int64_t alike = block.alike;
    const bool fits = (tile.width - 1) * stride + block.x.count <= kColumns;
    const int64_t room = fits ? tile.width : (kColumns - block.x.count) / stride + 1;
    for (int64_t y = 0; y < tile.height; ++y) {
      for (int64_t x = 0; x < tile.width; x += room) {
        sample_run(panel + b * step + (y * tile.width + x) * kBlock, step, image, blocks + b, alike, tile.y0 + y,
                   tile.x0 + x, least(room, tile.width - x));
      }
    }
    b += alike;
  }
}

}  // namespace

void ASL_JOIN(tile_sample_, ASL_ISA)(float* panel, int64_t step, const Image& image, const ChannelBlock* blocks,
                                     int64_t count, const Tile& tile) {
  sample(panel, step, image, blocks, count, tile);
}

}  // namespace asl
