// The sums start from the bias and leave with residual, ReLU and one rounding, straight from registers.
#pragma once

#include "pointwise_multiply.cuh"
#include "pointwise_stage.cuh"

namespace asl::cuda::pointwise {

// Element offset of output channel 0 of a pixel, or -1 where there is none.
__device__ __forceinline__ int64_t output_offset(const PointwiseProblem& problem, const PointwiseTiles& tiles,
                                                 bool exists, int image, int y, int x) {
  const int height = tiles.out_height, width = tiles.out_width, channels = tiles.out_channels;
  if (!exists || y >= height || x >= width) return -1;
  if (problem.channels_last) return ((int64_t{image} * height + y) * width + x) * channels;
  return int64_t{image} * height * width * channels + int64_t{y} * width + x;
}

// A NaN stays one, as in torch.
__device__ __forceinline__ float at_least(float value, float bound) {
#ifdef ASL_EMULATE
  return value < bound ? bound : value;
#else
  float result;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(value), "f"(bound));
  return result;
#endif
}

template <typename E>
__device__ __forceinline__ float read(const void* from, int64_t at) {
  return E::widen(static_cast<const typename E::Stored*>(from)[at]);
}

// The columns of a lane's sums: two neighbours in every tile of eight.
template <typename T>
__device__ __forceinline__ int first_column(int column, int warp, int lane) {
  return column + warp % T::kAcross * T::kWide + lane % 4 * 2;
}

// The bias of a tile's columns, or zeros.
template <typename E, typename T>
__device__ __forceinline__ void stage_bias(const PointwiseProblem& problem, const PointwiseTiles& tiles, int column,
                                           float* bias) {
  const int at = threadIdx.x;
  if (at >= T::kColumns) return;
  bias[at] = problem.bias != nullptr && column + at < tiles.out_channels ? read<E>(problem.bias, column + at) : 0.0f;
}

template <typename T>
__device__ __forceinline__ void begin_sums(const float* bias, Sums<T>& sums, int warp, int lane) {
#pragma unroll
  for (int n = 0; n < Sums<T>::kTilesAcross; ++n) {
    const float2 both = *reinterpret_cast<const float2*>(bias + first_column<T>(0, warp, lane) + n * 8);
#pragma unroll
    for (int m = 0; m < Sums<T>::kTilesDown; ++m) {
      sums.at[m][n][0] = sums.at[m][n][2] = both.x;
      sums.at[m][n][1] = sums.at[m][n][3] = both.y;
    }
  }
}

// One line's sums of two neighbouring tiles, where the output's channels are a multiple of eight: whole sectors.
template <typename E, bool RESIDUAL>
__device__ __forceinline__ void store_pair(const PointwiseProblem& problem, int channels, int64_t offset, int column,
                                           float bound, float (&value)[2][2], int lane) {
  auto* out = static_cast<typename E::Stored*>(problem.out);
  uint32_t word[2][2 / E::kLaneRows];
#pragma unroll
  for (int tile = 0; tile < 2; ++tile) {
    if (RESIDUAL && offset >= 0 && column + tile * 8 < channels) {
      const auto* residual = static_cast<const typename E::Stored*>(problem.residual) + offset + column + tile * 8;
      if constexpr (E::kBytes == 2) {
        float more[2];
        E::widen(*reinterpret_cast<const uint32_t*>(residual), more);
        value[tile][0] += more[0];
        value[tile][1] += more[1];
      } else {
        const float2 more = *reinterpret_cast<const float2*>(residual);
        value[tile][0] += more.x;
        value[tile][1] += more.y;
      }
    }
    const float kept[2] = {at_least(value[tile][0], bound), at_least(value[tile][1], bound)};
    if constexpr (E::kBytes == 2) {
      word[tile][0] = E::narrow(kept);
    } else if (offset >= 0 && column + tile * 8 < channels) {
      *reinterpret_cast<float2*>(out + offset + column + tile * 8) = make_float2(kept[0], kept[1]);
    }
  }
  if constexpr (E::kBytes == 2) {
    // Even lanes take four columns of the first tile, odd ones of the second: together 32 bytes of a pixel.
    const bool odd = lane % 2 != 0;
    const uint32_t other = __shfl_xor_sync(0xffffffffu, odd ? word[0][0] : word[1][0], 1);
    const int at = column - lane % 4 * 2 + (odd ? 8 : 0) + lane / 2 % 2 * 4;
    if (offset >= 0 && at < channels) {
      *reinterpret_cast<uint2*>(out + offset + at) =
          odd ? make_uint2(other, word[1][0]) : make_uint2(word[0][0], other);
    }
  }
}

template <typename E>
__device__ __forceinline__ void store_element(const PointwiseProblem& problem, int64_t offset, int column, float bound,
                                              float value) {
  if (offset < 0 || column >= problem.out_channels) return;
  const int64_t step = problem.channels_last ? 1 : problem.out_size[1] * problem.out_size[2];
  const int64_t at = offset + column * step;
  if (problem.residual != nullptr) value += read<E>(problem.residual, at);
  value = at_least(value, bound);
  if constexpr (E::kBytes == 2) {
    const float both[2] = {value, 0.0f};
    static_cast<uint16_t*>(problem.out)[at] = static_cast<uint16_t>(E::narrow(both));
  } else {
    static_cast<float*>(problem.out)[at] = value;
  }
}

// `pixel` [T::kPixels] holds the output offsets of the tile's pixels.
template <typename E, typename T>
__device__ __forceinline__ void store_outputs(const PointwiseProblem& problem, const PointwiseTiles& tiles,
                                              const int64_t* pixel, int column, const Sums<T>& sums, int warp,
                                              int lane) {
  const auto aligned = [](const void* base) { return reinterpret_cast<uintptr_t>(base) % 8 == 0; };
  const bool pairs =
      problem.channels_last && tiles.out_channels % 8 == 0 && aligned(problem.out) && aligned(problem.residual);
  const float bound = problem.relu ? 0.0f : __uint_as_float(0xff800000u);
  const int first = first_column<T>(column, warp, lane);
  const auto each = [&](const auto& store) {
#pragma unroll
    for (int m = 0; m < Sums<T>::kTilesDown; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        // Keeps the compiler from reading all lines' offsets and residuals ahead, for which registers are short.
        __syncwarp();
        const int64_t offset = pixel[warp / T::kAcross * 32 + m * 16 + half * 8 + lane / 4];
#pragma unroll
        for (int n = 0; n < Sums<T>::kTilesAcross; n += 2) {
          float value[2][2] = {{sums.at[m][n][half * 2], sums.at[m][n][half * 2 + 1]},
                               {sums.at[m][n + 1][half * 2], sums.at[m][n + 1][half * 2 + 1]}};
          store(offset, first + n * 8, value);
        }
      }
    }
  };
  if (pairs && problem.residual == nullptr) {
    each([&](int64_t offset, int at, float (&value)[2][2]) {
      store_pair<E, false>(problem, tiles.out_channels, offset, at, bound, value, lane);
    });
  } else if (pairs) {
    each([&](int64_t offset, int at, float (&value)[2][2]) {
      store_pair<E, true>(problem, tiles.out_channels, offset, at, bound, value, lane);
    });
  } else {
    each([&](int64_t offset, int at, float (&value)[2][2]) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        store_element<E>(problem, offset, at + i / 2 * 8 + i % 2, bound, value[i / 2][i % 2]);
      }
    });
  }
}

}  // namespace asl::cuda::pointwise
