// The product of pairs of 16-bit integers: twice as many multiply-adds an instruction as with floats.
#include "plane_tiles.h"

#if defined(__AVX512F__)
#include <immintrin.h>

namespace asl {
namespace {

constexpr int kChannels = kPairChannels;

// R output channels of V vectors of pixels; of the last vector only `lanes`.
template <int R, int V>
void piece(const PairProduct& product, const int32_t* panel, int64_t channel, int64_t offset, __mmask16 lanes) {
  __m512i sum[R][V] = {};
  const int32_t* weight = product.weight + channel * product.pairs;
#pragma GCC unroll 1
  for (int64_t k = 0; k < product.pairs; ++k, panel += product.panel_step, weight += kChannels) {
    __m512i pixels[V];
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) pixels[v] = _mm512_load_si512(panel + v * kPlaneVector);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 3
      for (int v = 0; v < V; ++v) {
        // Written out: as an intrinsic, GCC 12 keeps the sums in memory.
        asm("vpdpwssd %2%{1to16%}, %1, %0" : "+v"(sum[r][v]) : "v"(pixels[v]), "m"(weight[r]));
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    const __m512 factor = _mm512_set1_ps(product.scale[channel + r] * product.step);
    const __m512 start = product.bias != nullptr ? _mm512_set1_ps(product.bias[channel + r]) : _mm512_setzero_ps();
    const int64_t at = offset + r * product.output_step;
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) {
      const __mmask16 here = v + 1 < V ? __mmask16(-1) : lanes;
      const int64_t to = at + v * kPlaneVector;
      __m512 y = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r][v]), factor, start);
      if (product.residual != nullptr) y += _mm512_maskz_loadu_ps(here, product.residual + to);
      // Written so that a NaN of the residual stays one.
      if (product.relu) y = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(y, _mm512_setzero_ps(), _CMP_NLT_UQ), y);
      _mm512_mask_storeu_ps(product.output + to, here, y);
    }
  }
}

typedef void (*Piece)(const PairProduct&, const int32_t*, int64_t, int64_t, __mmask16);
#define ASL_PIECE(R) {piece<R, 1>, piece<R, 2>, piece<R, 3>}
const Piece kPieces[kChannels][3] = {ASL_PIECE(1), ASL_PIECE(2), ASL_PIECE(3), ASL_PIECE(4),
                                     ASL_PIECE(5), ASL_PIECE(6), ASL_PIECE(7), ASL_PIECE(8)};

void multiply(const PairProduct& product, int64_t channels) {
  const int32_t* panel = product.panel;
  for (int64_t p = 0; p < product.pixels; p += kPlaneTile, panel += kPlaneTile) {
    const int64_t here = product.pixels - p < kPlaneTile ? product.pixels - p : kPlaneTile;
    const int64_t vectors = (here + kPlaneVector - 1) / kPlaneVector;
    const __mmask16 lanes = static_cast<__mmask16>((1u << (here - (vectors - 1) * kPlaneVector)) - 1);
    for (int64_t o = 0; o < channels; o += kChannels) {
      const int64_t left = channels - o < kChannels ? channels - o : kChannels;
      kPieces[left - 1][vectors - 1](product, panel, o, o * product.output_step + p, lanes);
    }
  }
}

int64_t largest_sum(const int32_t* weight, int64_t pairs, int64_t channels) {
  int64_t most = 0;
  for (int64_t o = 0; o < channels; o += kChannels) {
    // Sums of two magnitudes are below 2^17: 64-bit lanes hold any number of them.
    __m512i sum = _mm512_setzero_si512();
    for (int64_t k = 0; k < pairs; ++k, weight += kChannels) {
      const __m256i pair = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weight));
      const __m256i low = _mm256_srai_epi32(_mm256_slli_epi32(pair, 16), 16), high = _mm256_srai_epi32(pair, 16);
      const __m256i both = _mm256_add_epi32(_mm256_abs_epi32(low), _mm256_abs_epi32(high));
      sum = _mm512_add_epi64(sum, _mm512_cvtepi32_epi64(both));
    }
    const int64_t here = _mm512_reduce_max_epi64(sum);
    most = here > most ? here : most;
  }
  return most;
}

uint32_t largest(const float* values, int64_t count) {
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  __m512i most = _mm512_setzero_si512();
  for (int64_t i = 0; i < count; i += kPlaneVector) {
    const int64_t left = count - i;
    const __mmask16 lanes = left >= kPlaneVector ? __mmask16(-1) : static_cast<__mmask16>((1u << left) - 1);
    most = _mm512_max_epu32(most, _mm512_and_si512(magnitude, _mm512_maskz_loadu_epi32(lanes, values + i)));
  }
  return static_cast<uint32_t>(_mm512_reduce_max_epu32(most));
}

}  // namespace

extern const PairTiles pair_tiles_v4;
const PairTiles pair_tiles_v4{multiply, largest_sum, largest};

}  // namespace asl
#endif
