// The product of a small panel of pixels and the packed weight: a tile of the output stays in registers while the
// sums run over all rows, and leaves through the epilogue.
#include "simd.h"
#include "tile_isa.h"

namespace asl {
namespace {

// The registers hold `pixels` x `panels` sums, the weights of one row and one broadcast pixel.
#if defined(__AVX512F__)
constexpr int kMostPixels = 14, kPanels = 2;
#elif defined(__AVX2__) || defined(__aarch64__)
constexpr int kMostPixels = 6, kPanels = 1;
#else
constexpr int kMostPixels = 3, kPanels = 1;
#endif

struct Piece {
  const float* panel;
  int64_t panel_step;  // from one block of rows to the next
  const float* weight;
  int64_t weight_step;  // from one block of output channels to the next
  int64_t rows;
  int64_t channel;  // first output channel
  int64_t present;  // output channels
  const char* read_ahead;
  const char* write_ahead;
  int64_t read_step, write_step;
};

template <int P, int N>
ASL_INLINE void add_row(vec (&sum)[P][N * kParts], const float* pixel, const float* weight, int64_t weight_step) {
  vec w[N * kParts];
  for (int n = 0; n < N; ++n) {
    for (int part = 0; part < kParts; ++part) w[n * kParts + part] = load(weight + n * weight_step + part * kLanes);
  }
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p) {
    const float value = pixel[p * kBlock];
#pragma GCC unroll 16
    for (int v = 0; v < N * kParts; ++v) sum[p][v] += value * w[v];
  }
}

// The first `present` of sixteen floats for each panel, and zeros.
#if defined(__AVX512F__)
ASL_INLINE __mmask16 part_mask(int64_t present, int v) {
  const int64_t here = present - v * kLanes;
  return static_cast<__mmask16>(here >= kLanes ? 0xffff : here <= 0 ? 0 : (1 << here) - 1);
}
ASL_INLINE vec load_part(const float* src, int64_t present, int v) {
  return (vec)_mm512_maskz_loadu_ps(part_mask(present, v), src + v * kLanes);
}
ASL_INLINE void save_part(float* dst, vec value, int64_t present, int v) {
  _mm512_mask_storeu_ps(dst + v * kLanes, part_mask(present, v), (__m512)value);
}
#else
ASL_INLINE vec load_part(const float* src, int64_t present, int v) {
  if ((v + 1) * kLanes <= present) return load(src + v * kLanes);
  vec value = {};
  for (int i = 0; v * kLanes + i < present; ++i) value[i] = src[v * kLanes + i];
  return value;
}
ASL_INLINE void save_part(float* dst, vec value, int64_t present, int v) {
  if ((v + 1) * kLanes <= present) return save(dst + v * kLanes, value);
  for (int i = 0; v * kLanes + i < present; ++i) dst[v * kLanes + i] = value[i];
}
#endif

// Bias and residual come first: after the sums every register is taken.
template <int P, int N>
ASL_INLINE void begin_sums(vec (&sum)[P][N * kParts], const Piece& piece, const Product& product, const int64_t* at) {
  const Epilogue& epilogue = product.epilogue;
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 16
    for (int v = 0; v < N * kParts; ++v) {
      sum[p][v] = epilogue.bias != nullptr ? load(epilogue.bias + piece.channel + v * kLanes) : vec{};
    }
    if (epilogue.residual == nullptr) continue;
    const float* residual = epilogue.residual + at[p] + piece.channel;
#pragma GCC unroll 16
    for (int v = 0; v < N * kParts; ++v) sum[p][v] += load_part(residual, piece.present, v);
  }
}

template <int P, int N>
ASL_INLINE void put_sums(const vec (&sum)[P][N * kParts], const Piece& piece, const Product& product,
                         const int64_t* at) {
  const bool whole = piece.present == N * kBlock;
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p) {
    float* dst = product.output + at[p] + piece.channel;
#pragma GCC unroll 16
    for (int v = 0; v < N * kParts; ++v) {
      if (whole) {
        save(dst + v * kLanes, sum[p][v]);
      } else {
        save_part(dst, sum[p][v], piece.present, v);
      }
    }
  }
}

// A weight that comes from beyond the second-level cache: asked for so many rows ahead, as the processor's own
// prefetching ends with each page.
constexpr int kWeightAhead = 32 * kBlock;
constexpr int64_t kFarWeight = 128 * 1024;  // floats

template <int P, int N, bool Far>
void multiply_piece(const Piece& piece, const Product& product, const int64_t* at) {
  vec sum[P][N * kParts];
  begin_sums<P, N>(sum, piece, product, at);
  const float* panel = piece.panel;
  const float* weight = piece.weight;
  const char* read_ahead = piece.read_ahead;
  const char* write_ahead = piece.write_ahead;
  int64_t left = piece.rows;
  for (; left >= kBlock; left -= kBlock, panel += piece.panel_step) {
    // Not unrolled: with two rows at once the compiler keeps more broadcasts than it has registers for.
#pragma GCC unroll 1
    for (int r = 0; r < kBlock; ++r, weight += kBlock) {
      if constexpr (Far) {
        for (int n = 0; n < N; ++n) __builtin_prefetch(weight + n * piece.weight_step + kWeightAhead);
      }
      __builtin_prefetch(read_ahead);
      __builtin_prefetch(write_ahead, 1);
      read_ahead += piece.read_step;
      write_ahead += piece.write_step;
      add_row<P, N>(sum, panel + r, weight, piece.weight_step);
    }
  }
  for (int64_t r = 0; r < left; ++r, weight += kBlock) add_row<P, N>(sum, panel + r, weight, piece.weight_step);
  if (product.epilogue.relu) {
    // Written so that a NaN stays one.
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) {
#pragma GCC unroll 16
      for (int v = 0; v < N * kParts; ++v) sum[p][v] = sum[p][v] < vec{} ? vec{} : sum[p][v];
    }
  }
  put_sums<P, N>(sum, piece, product, at);
}

typedef void (*Multiply)(const Piece&, const Product&, const int64_t*);
#if defined(__AVX512F__)
#define ASL_PIECES(N, F)                                                                                             \
  {multiply_piece<1, N, F>,  multiply_piece<2, N, F>,  multiply_piece<3, N, F>,  multiply_piece<4, N, F>,            \
   multiply_piece<5, N, F>,  multiply_piece<6, N, F>,  multiply_piece<7, N, F>,  multiply_piece<8, N, F>,            \
   multiply_piece<9, N, F>,  multiply_piece<10, N, F>, multiply_piece<11, N, F>, multiply_piece<12, N, F>,           \
   multiply_piece<13, N, F>, multiply_piece<14, N, F>}
const Multiply kPieces[2][kPanels][kMostPixels] = {{ASL_PIECES(1, false), ASL_PIECES(2, false)},
                                                   {ASL_PIECES(1, true), ASL_PIECES(2, true)}};
#elif defined(__AVX2__) || defined(__aarch64__)
#define ASL_PIECES(F)                                                                                       \
  {{multiply_piece<1, 1, F>, multiply_piece<2, 1, F>, multiply_piece<3, 1, F>, multiply_piece<4, 1, F>,     \
    multiply_piece<5, 1, F>, multiply_piece<6, 1, F>}}
const Multiply kPieces[2][kPanels][kMostPixels] = {ASL_PIECES(false), ASL_PIECES(true)};
#else
#define ASL_PIECES(F) {{multiply_piece<1, 1, F>, multiply_piece<2, 1, F>, multiply_piece<3, 1, F>}}
const Multiply kPieces[2][kPanels][kMostPixels] = {ASL_PIECES(false), ASL_PIECES(true)};
#endif

void multiply(const Product& product, int64_t first, int64_t last) {
  Piece piece;
  piece.panel_step = product.panel_pixels * kBlock;
  piece.weight_step = product.rows * kBlock;
  piece.rows = product.rows;
  const bool far = product.rows * product.out_channels >= kFarWeight;
  // As many pixels in each piece: a last one of few would leave most of the registers idle.
  const int64_t pieces = (product.pixels + kMostPixels - 1) / kMostPixels;
  const int64_t each = pieces == 1 ? product.pixels : (product.pixels + pieces - 1) / pieces;
  piece.read_step = product.read_step;
  piece.write_step = product.write_step;
  piece.read_ahead = product.read_ahead;
  piece.write_ahead = product.write_ahead;
  for (int64_t block = first; block < last; block += kPanels) {
    const int64_t panels = least(kPanels, last - block);
    piece.weight = product.weight + block * piece.weight_step;
    piece.channel = block * kBlock;
    piece.present = least(panels * kBlock, product.out_channels - piece.channel);
    for (int64_t p = 0; p < product.pixels; p += each) {
      piece.panel = product.panel + p * kBlock;
      kPieces[far][panels - 1][least(each, product.pixels - p) - 1](piece, product, product.at + p);
      piece.read_ahead += piece.read_step * (product.rows & -kBlock);
      piece.write_ahead += piece.write_step * (product.rows & -kBlock);
    }
  }
}

}  // namespace

void ASL_JOIN(tile_multiply_, ASL_ISA)(const Product& product, int64_t first, int64_t last) {
  multiply(product, first, last);
}

}  // namespace asl
