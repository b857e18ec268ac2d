// The loops over channel blocks; built once per instruction set, under the same rules as loops.cpp.
#include "blocks.h"

#if defined(__AVX512F__)
#include <immintrin.h>
#define ASL_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define ASL_VECTOR_BYTES 32
#else
#define ASL_VECTOR_BYTES 16
#endif

#define ASL_INLINE inline __attribute__((always_inline))

namespace asl {
namespace {

typedef float vec __attribute__((vector_size(ASL_VECTOR_BYTES)));
typedef int32_t ints __attribute__((vector_size(ASL_VECTOR_BYTES)));
constexpr int kLanes = ASL_VECTOR_BYTES / 4;

ASL_INLINE vec load(const float* src) {
  vec result;
  __builtin_memcpy(&result, src, sizeof(result));
  return result;
}

// Which lanes read a tap. What the others would have read must not reach a sum: zero times infinity is not zero.
#if defined(__AVX512F__)
typedef __mmask16 Lanes;
ASL_INLINE Lanes lanes_of(vec weight) {
  return _mm512_cmp_ps_mask((__m512)weight, _mm512_setzero_ps(), _CMP_NEQ_UQ);
}
ASL_INLINE vec get(Lanes lanes, const float* src) { return (vec)_mm512_maskz_loadu_ps(lanes, src); }
ASL_INLINE vec only(Lanes lanes, vec value) { return (vec)_mm512_maskz_mov_ps(lanes, (__m512)value); }
ASL_INLINE vec add(vec sum, Lanes lanes, vec weight, vec value) {
  return (vec)_mm512_mask3_fmadd_ps((__m512)weight, (__m512)value, (__m512)sum, lanes);
}
#else
typedef ints Lanes;
ASL_INLINE Lanes lanes_of(vec weight) { return weight != vec{}; }
ASL_INLINE vec only(Lanes lanes, vec value) { return (vec)((ints)value & lanes); }
ASL_INLINE vec get(Lanes lanes, const float* src) { return only(lanes, load(src)); }
ASL_INLINE vec add(vec sum, Lanes lanes, vec weight, vec value) { return sum + weight * only(lanes, value); }
#endif

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

// Part of one output row: the image rows under it that exist, and their taps.
struct Line {
  const float* row[kMostTaps];
  const float* y_weight[kMostTaps];
  int64_t channels, width;  // of the image
  int64_t present;          // channels from here to the end of the pixel
  int64_t begin, end;       // output columns
  const AxisTaps* x;
  int lane;  // of the block, the first one that this call does
};

// The last pixel of an image must not be read past its last channel, which only masked loads can do by themselves.
template <bool kPartial>
ASL_INLINE vec fetch(Lanes lanes, const float* src, int64_t present) {
#if !defined(__AVX512F__)
  if constexpr (kPartial) {
    vec whole = {};
    __builtin_memcpy(&whole, src, static_cast<unsigned long>(present) * sizeof(float));
    return only(lanes, whole);
  }
#endif
  (void)present;
  return get(lanes, src);
}

template <int NY, int NX, bool kPartial>
void run(float* dst, int64_t step, const Line& line) {
  vec y_weight[NY], x_weight[NX];
  Lanes y_lanes[NY], x_lanes[NX];
  const float* row[NY];
  for (int t = 0; t < NY; ++t) {
    row[t] = line.row[t];
    y_weight[t] = load(line.y_weight[t] + line.lane);
    y_lanes[t] = lanes_of(y_weight[t]);
  }
  for (int t = 0; t < NX; ++t) {
    x_weight[t] = load(line.x->weight[t] + line.lane);
    x_lanes[t] = lanes_of(x_weight[t]);
  }
  const int64_t channels = line.channels, width = line.width, present = line.present;
  const auto column = [&](int64_t at) {
    const int64_t offset = at * channels;
    vec sum = y_weight[0] * fetch<kPartial>(y_lanes[0], row[0] + offset, present);
    for (int t = 1; t < NY; ++t) sum += y_weight[t] * fetch<kPartial>(y_lanes[t], row[t] + offset, present);
    return sum;
  };
  vec window[NX];  // the columns under the taps of one output pixel; zero where the image has none
  const int64_t lead = line.x->first;
  for (int t = 0; t + 1 < NX; ++t) {
    const int64_t at = line.begin + lead + t;
    window[t] = at >= 0 && at < width ? column(at) : vec{};
  }
  // One loop for borders and interior: its branch is foreseen, and the window stays in registers.
  const int64_t last = line.end + lead + NX - 1;
  for (int64_t at = line.begin + lead + NX - 1; at < last; ++at, dst += step) {
    window[NX - 1] = at >= 0 && at < width ? column(at) : vec{};
    vec sum = only(x_lanes[0], x_weight[0] * window[0]);
    for (int t = 1; t < NX; ++t) sum = add(sum, x_lanes[t], x_weight[t], window[t]);
    __builtin_memcpy(dst, &sum, sizeof(sum));
    for (int t = 0; t + 1 < NX; ++t) window[t] = window[t + 1];
  }
}

typedef void (*Run)(float*, int64_t, const Line&);
#define ASL_RUNS(NY, P) {run<NY, 1, P>, run<NY, 2, P>, run<NY, 3, P>, run<NY, 4, P>, run<NY, 5, P>}
#define ASL_ALL_RUNS(P) {ASL_RUNS(1, P), ASL_RUNS(2, P), ASL_RUNS(3, P), ASL_RUNS(4, P), ASL_RUNS(5, P)}
const Run kRuns[kMostTaps][kMostTaps] = ASL_ALL_RUNS(false);
#if !defined(__AVX512F__)
const Run kPartialRuns[kMostTaps][kMostTaps] = ASL_ALL_RUNS(true);
#endif

void sample_channels(float* panel, int64_t panel_step, const float* image, int64_t channels, int64_t present,
                     const ChannelBlock& block, const Extent& extent, int64_t begin, int64_t end) {
  const int64_t height = extent.size[1], width = extent.size[2], out_width = extent.out[2];
  Line line;
  line.channels = channels;
  line.width = width;
  line.x = &block.x;
  for (int64_t at = begin; at < end;) {
    const int64_t y = at / out_width;
    line.begin = at - y * out_width;
    line.end = least(out_width, line.begin + end - at);
    float* dst = panel + (at - begin) * panel_step;
    at += line.end - line.begin;
    int64_t rows = 0;
    for (int64_t t = 0; t < block.y.count; ++t) {
      const int64_t source = y + block.y.first + t;
      if (source < 0 || source >= height) continue;
      line.row[rows] = image + source * width * channels;
      line.y_weight[rows++] = block.y.weight[t];
    }
    if (rows == 0 || block.x.count == 0) {
      for (int64_t x = line.begin; x < line.end; ++x, dst += panel_step) {
        __builtin_memset(dst, 0, kBlock * sizeof(float));
      }
      continue;
    }
#if defined(__AVX512F__)
    line.lane = 0;
    line.present = present;
    kRuns[rows - 1][block.x.count - 1](dst, panel_step, line);
#else
    for (line.lane = 0; line.lane < present; line.lane += kLanes) {
      line.present = present - line.lane;
      const auto& runs = line.present < kLanes ? kPartialRuns : kRuns;
      runs[rows - 1][block.x.count - 1](dst + line.lane, panel_step, line);
      for (int64_t t = 0; t < rows; ++t) line.row[t] += kLanes;
    }
#endif
  }
}

}  // namespace

#define ASL_JOIN_(a, b) a##b
#define ASL_JOIN(a, b) ASL_JOIN_(a, b)
extern const SampleBlock ASL_JOIN(sample_block_, ASL_ISA);
const SampleBlock ASL_JOIN(sample_block_, ASL_ISA) = sample_channels;

}  // namespace asl
