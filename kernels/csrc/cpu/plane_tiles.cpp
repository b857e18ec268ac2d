// Sampling and product of the contiguous fused op; empty but for AVX-512.
#include "plane_tiles.h"

#if defined(__AVX512F__)
#include <immintrin.h>

namespace asl {
namespace {

using Into = PlaneJob::Into;

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

inline uint64_t bits_below(int64_t end) { return end >= 64 ? ~uint64_t{0} : end <= 0 ? 0 : (uint64_t{1} << end) - 1; }

// Lanes [begin, end) of sixteen; both may lie outside.
inline __mmask16 lanes_between(int64_t begin, int64_t end) {
  const uint32_t from = static_cast<uint32_t>(most(0, least(16, begin)));
  const uint32_t to = static_cast<uint32_t>(most(0, least(16, end)));
  return to <= from ? 0 : static_cast<__mmask16>((1u << to) - (1u << from));
}

template <Into I>
inline __attribute__((always_inline)) void store(float* to, __m512 values, __mmask16 lanes) {
  if constexpr (I == Into::floats) {
    _mm512_mask_storeu_ps(to, lanes, values);
  } else if constexpr (I == Into::low) {
    // The high half is written by the next row.
    _mm512_mask_storeu_epi32(to, lanes, _mm512_cvtps_epi32(values));
  } else {
    const __mmask32 high = static_cast<__mmask32>(_pdep_u32(lanes, 0xAAAAAAAAu));
    _mm512_mask_storeu_epi16(to, high, _mm512_slli_epi32(_mm512_cvtps_epi32(values), 16));
  }
}

// Up to J times sixteen columns from `x` on, from top to bottom. The x taps of an image row serve two output rows; the
// second x tap comes from the registers of the first.
template <int NY, int NX, int J, Into I>
void sample_strips(const PlaneJob& job, int64_t x) {
  const PlaneRow& row = *job.row;
  const int64_t width = job.size.width, height = job.size.height, out_width = job.size.out_width;
  const int64_t left = x + row.dx;
  constexpr int kLoads = NX == 2 ? J + 1 : J;
  __mmask16 there[kLoads];
  const uint64_t inside = bits_below(width - left) & ~bits_below(-left);
#pragma GCC unroll 4
  for (int j = 0; j < J; ++j) there[j] = static_cast<__mmask16>(inside >> (16 * j));
  if (NX == 2) there[kLoads - 1] = lanes_between(-left - J * 16, width - left - J * 16);
  const __mmask16 last = static_cast<__mmask16>(bits_below(out_width - x) >> (16 * (J - 1)));
  // The scale of integers goes with weights that are multiplied anyway, where there are any.
  const float scale = I == Into::floats ? 1.0f : job.scale, scale_x = NY == 1 ? scale : 1.0f;
  const __m512 x0 = _mm512_set1_ps(row.x[0] * scale_x), x1 = _mm512_set1_ps(row.x[1] * scale_x);
  const __m512 y0 = _mm512_set1_ps(row.y[0] * scale), y1 = _mm512_set1_ps(row.y[1] * scale);
  // Addresses are integers: a strip at the border begins left of the plane, only the lanes within are read, and an
  // image without pixels has no plane at all.
  const uintptr_t pitch = static_cast<uintptr_t>(width * 4);
  const auto line = [&](__m512 (&sum)[J], uintptr_t at) {
    __m512 value[kLoads];
#pragma GCC unroll 5
    for (int j = 0; j < kLoads; ++j) {
      value[j] = _mm512_maskz_loadu_ps(there[j], reinterpret_cast<const float*>(at + j * 64));
    }
#pragma GCC unroll 4
    for (int j = 0; j < J; ++j) {
      sum[j] = value[j];
      if constexpr (NX == 2) {
        const __m512 next = (__m512)_mm512_alignr_epi32((__m512i)value[j + 1], (__m512i)value[j], 1);
        sum[j] = _mm512_fmadd_ps(x1, next, _mm512_mul_ps(x0, value[j]));
      } else if constexpr (NY == 1 && I != Into::floats) {
        sum[j] = _mm512_mul_ps(x0, value[j]);
      }
    }
  };
  float* to = static_cast<float*>(job.panel) + x;
  uintptr_t ahead = reinterpret_cast<uintptr_t>(job.next) + static_cast<uintptr_t>((job.y0 * width + x) * 4);
  const auto put = [&](const __m512 (&sum)[J]) {
#pragma GCC unroll 4
    for (int j = 0; j < J; ++j) __builtin_prefetch(reinterpret_cast<const void*>(ahead + j * 64));
    ahead += pitch;
#pragma GCC unroll 4
    for (int j = 0; j < J; ++j) store<I>(to + j * 16, sum[j], j + 1 < J ? __mmask16(-1) : last);
    to += out_width;
  };
  __m512 sum[J] = {}, upper[J] = {}, lower[J];
  int64_t y = job.y0;
  const int64_t reach = row.dy + NY - 1;  // of the lowest image row that is read
  // [begin, end): this row exists.
  const int64_t begin = most(y, least(job.y1, -reach)), end = most(begin, least(job.y1, height - reach));
  for (; y < begin; ++y) put(sum);
  uintptr_t at = reinterpret_cast<uintptr_t>(job.plane) + static_cast<uintptr_t>(((y + reach) * width + left) * 4);
  if (NY == 1) {
    for (; y < end; ++y, at += pitch) {
      line(sum, at);
      put(sum);
    }
#pragma GCC unroll 4
    for (int j = 0; j < J; ++j) sum[j] = _mm512_setzero_ps();
    for (; y < job.y1; ++y) put(sum);
    return;
  }
  if (y + row.dy >= 0 && y + row.dy < height) line(upper, at - pitch);
  for (; y < end; ++y, at += pitch) {
    line(lower, at);
#pragma GCC unroll 4
    for (int j = 0; j < J; ++j) {
      sum[j] = _mm512_fmadd_ps(y1, lower[j], _mm512_mul_ps(y0, upper[j]));
      upper[j] = lower[j];
    }
    put(sum);
  }
  for (; y < job.y1; ++y) {
#pragma GCC unroll 4
    for (int j = 0; j < J; ++j) {
      sum[j] = _mm512_mul_ps(y0, upper[j]);
      upper[j] = _mm512_setzero_ps();
    }
    put(sum);
  }
}

typedef void (*Strips)(const PlaneJob&, int64_t);
#define ASL_STRIPS(I, NY, NX)                                                                              \
  {sample_strips<NY, NX, 1, I>, sample_strips<NY, NX, 2, I>, sample_strips<NY, NX, 3, I>,                  \
   sample_strips<NY, NX, 4, I>}
#define ASL_TAPS(I) {{ASL_STRIPS(I, 1, 1), ASL_STRIPS(I, 1, 2)}, {ASL_STRIPS(I, 2, 1), ASL_STRIPS(I, 2, 2)}}
const Strips kStrips[3][2][2][4] = {ASL_TAPS(Into::floats), ASL_TAPS(Into::low), ASL_TAPS(Into::high)};

void sample(const PlaneJob& job) {
  const Strips(&strips)[4] = kStrips[static_cast<int>(job.into)][job.row->y[1] != 0.0f][job.row->x[1] != 0.0f];
  for (int64_t x = 0; x < job.size.out_width; x += 64) {
    strips[least(3, (job.size.out_width - x - 1) / kPlaneVector)](job, x);
  }
}

// R output channels of V vectors of pixels; of the last vector only `lanes`.
template <bool Packed, int R, int V>
void piece(const PlaneProduct& product, const float* panel, int64_t channel, float* output, const float* residual,
           __mmask16 lanes) {
  __m512 sum[R][V];
  const float* weight[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    weight[r] = Packed ? product.weight + channel / 16 * 16 * product.rows + channel % 16 + r
                       : product.weight + (channel + r) * product.rows;
    const __m512 start = product.bias != nullptr ? _mm512_set1_ps(product.bias[channel + r]) : _mm512_setzero_ps();
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) sum[r][v] = start;
  }
  if (residual != nullptr) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const float* from = residual + r * product.output_step;
#pragma GCC unroll 3
      for (int v = 0; v < V; ++v) {
        sum[r][v] += v + 1 < V ? _mm512_loadu_ps(from + v * kPlaneVector)
                               : _mm512_maskz_loadu_ps(lanes, from + v * kPlaneVector);
      }
    }
  }
#pragma GCC unroll 1
  for (int64_t k = 0; k < product.rows; ++k, panel += product.panel_step) {
    __m512 pixels[V];
#pragma GCC unroll 3
    for (int v = 0; v + 1 < V; ++v) pixels[v] = _mm512_load_ps(panel + v * kPlaneVector);
    // What lies past the last pixel was never written; multiplying such numbers may take a hundred times as long.
    pixels[V - 1] = _mm512_maskz_load_ps(lanes, panel + (V - 1) * kPlaneVector);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const __m512 factor = _mm512_set1_ps(weight[r][Packed ? k * 16 : k]);
#pragma GCC unroll 3
      for (int v = 0; v < V; ++v) sum[r][v] = _mm512_fmadd_ps(factor, pixels[v], sum[r][v]);
    }
  }
  if (product.relu) {
    // Written so that a NaN stays one.
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 3
      for (int v = 0; v < V; ++v) {
        const __mmask16 kept = _mm512_cmp_ps_mask(sum[r][v], _mm512_setzero_ps(), _CMP_NLT_UQ);
        sum[r][v] = _mm512_maskz_mov_ps(kept, sum[r][v]);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    float* to = output + r * product.output_step;
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) {
      if (v + 1 < V) {
        _mm512_storeu_ps(to + v * kPlaneVector, sum[r][v]);
      } else {
        _mm512_mask_storeu_ps(to + v * kPlaneVector, lanes, sum[r][v]);
      }
    }
  }
}

constexpr int kMostRows = 8;
typedef void (*Piece)(const PlaneProduct&, const float*, int64_t, float*, const float*, __mmask16);
#define ASL_PIECE(packed, R) {piece<packed, R, 1>, piece<packed, R, 2>, piece<packed, R, 3>}
#define ASL_PIECES(packed)                                                                    \
  {ASL_PIECE(packed, 1), ASL_PIECE(packed, 2), ASL_PIECE(packed, 3), ASL_PIECE(packed, 4),    \
   ASL_PIECE(packed, 5), ASL_PIECE(packed, 6), ASL_PIECE(packed, 7), ASL_PIECE(packed, 8)}
const Piece kPieces[2][kMostRows][3] = {ASL_PIECES(false), ASL_PIECES(true)};

void multiply(const PlaneProduct& product, int64_t first, int64_t last) {
  const float* panel = product.panel;
  for (int64_t p = 0; p < product.pixels; p += kPlaneTile, panel += kPlaneTile) {
    const int64_t here = least(kPlaneTile, product.pixels - p);
    const int64_t vectors = (here + kPlaneVector - 1) / kPlaneVector;
    const __mmask16 lanes = lanes_between(0, here - (vectors - 1) * kPlaneVector);
    for (int64_t o = first; o < last; o += kMostRows) {
      const int64_t offset = o * product.output_step + p;
      kPieces[product.packed][least(kMostRows, last - o) - 1][vectors - 1](
          product, panel, o, product.output + offset, product.residual != nullptr ? product.residual + offset : nullptr,
          lanes);
    }
  }
}

}  // namespace

extern const PlaneTiles plane_tiles_v4;
const PlaneTiles plane_tiles_v4{sample, multiply};

}  // namespace asl
#endif
