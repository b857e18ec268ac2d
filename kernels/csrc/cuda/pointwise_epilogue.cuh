// Bias, residual and ReLU in float32, one rounding, and whole lines of output.
#pragma once

#include "pointwise_multiply.cuh"
#include "pointwise_stage.cuh"

namespace asl::cuda::pointwise {

constexpr int kPiece = 64;            // columns that pass through shared memory together
constexpr int kPieceStride = kPiece + 4;  // floats

static_assert(kPixels * kPieceStride * sizeof(float) == kOutputTileBytes);

struct Outputs {
  float* tile;     // [kPixels][kPieceStride]
  int64_t* pixel;  // [kPixels], element offset of output channel 0, or -1 where there is no such pixel
};

__device__ __forceinline__ int64_t output_offset(const PointwiseProblem& problem, bool exists, int64_t image, int y,
                                                 int x) {
  if (!exists || y >= problem.out_size[1] || x >= problem.out_size[2]) return -1;
  const int64_t plane = problem.out_size[1] * problem.out_size[2], pixel = y * problem.out_size[2] + x;
  return problem.channels_last ? (image * plane + pixel) * problem.out_channels
                               : image * problem.out_channels * plane + pixel;
}

// A NaN stays one, as in torch.
__device__ __forceinline__ float finished(float sum, float bias, float residual, bool relu) {
  const float value = sum + bias + residual;
  return relu && value < 0.0f ? 0.0f : value;
}

template <typename E>
__device__ __forceinline__ float read(const void* from, int64_t at) {
  return from == nullptr ? 0.0f : E::widen(static_cast<const typename E::Stored*>(from)[at]);
}

template <typename E>
__device__ __forceinline__ typename E::Stored narrowed(float value) {
  if constexpr (E::kLaneRows == 2) {
    return static_cast<uint16_t>(E::pack(value, 0.0f));
  } else {
    return value;
  }
}

// Sixteen bytes of output channels of one pixel at a time.
template <typename E>
__device__ __forceinline__ void store_chunks(const PointwiseProblem& problem, const Outputs& outputs, int64_t column) {
  constexpr int kWidth = kPerChunk<E>, kAcross = kPiece / kWidth;
  union Chunk {
    typename E::Stored value[kWidth];
    uint4 all;
  };
  const int within = threadIdx.x % kAcross * kWidth;
  const int64_t first = column + within;
  if (first >= problem.out_channels) return;
  float bias[kWidth];
#pragma unroll
  for (int i = 0; i < kWidth; ++i) bias[i] = read<E>(problem.bias, first + i);
#pragma unroll 2
  for (int pixel = threadIdx.x / kAcross; pixel < kPixels; pixel += kThreads / kAcross) {
    const int64_t offset = outputs.pixel[pixel];
    if (offset < 0) continue;
    Chunk residual, result;
    residual.all = make_uint4(0, 0, 0, 0);
    if (problem.residual != nullptr) {
      residual.all = *reinterpret_cast<const uint4*>(static_cast<const typename E::Stored*>(problem.residual) + offset +
                                                     first);
    }
    float value[kWidth];
#pragma unroll
    for (int i = 0; i < kWidth; i += 4) {
      const float4 sum = *reinterpret_cast<const float4*>(outputs.tile + pixel * kPieceStride + within + i);
      value[i] = sum.x;
      value[i + 1] = sum.y;
      value[i + 2] = sum.z;
      value[i + 3] = sum.w;
    }
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      result.value[i] = narrowed<E>(finished(value[i], bias[i], E::widen(residual.value[i]), problem.relu));
    }
    *reinterpret_cast<uint4*>(static_cast<typename E::Stored*>(problem.out) + offset + first) = result.all;
  }
}

// Element by element: neighbouring threads take neighbours in memory, channels or pixels.
template <typename E>
__device__ __forceinline__ void store_elements(const PointwiseProblem& problem, const Outputs& outputs,
                                               int64_t column) {
  const int64_t step = problem.channels_last ? 1 : problem.out_size[1] * problem.out_size[2];
  for (int i = threadIdx.x; i < kPixels * kPiece; i += kThreads) {
    const int pixel = problem.channels_last ? i / kPiece : i % kPixels;
    const int within = problem.channels_last ? i % kPiece : i / kPixels;
    const int64_t channel = column + within, offset = outputs.pixel[pixel];
    if (offset < 0 || channel >= problem.out_channels) continue;
    const int64_t at = offset + channel * step;
    const float value = finished(outputs.tile[pixel * kPieceStride + within], read<E>(problem.bias, channel),
                                 read<E>(problem.residual, at), problem.relu);
    static_cast<typename E::Stored*>(problem.out)[at] = narrowed<E>(value);
  }
}

template <typename E, int COLUMNS>
__device__ __forceinline__ void store_outputs(const PointwiseProblem& problem, const Outputs& outputs,
                                              const Place& place, const Sums<COLUMNS>& sums, int warp, int lane) {
  using S = Sums<COLUMNS>;
  const bool chunks = problem.channels_last && whole_chunks<E>(problem.out, problem.out_channels) &&
                      reinterpret_cast<uintptr_t>(problem.residual) % kChunk == 0;
#pragma unroll 1
  for (int piece = 0; piece < COLUMNS; piece += kPiece) {
    if (place.column + piece >= problem.out_channels) return;
    __syncthreads();
    const int column = warp % kWarpsAcross * S::kWide - piece;
    if (column >= 0 && column < kPiece) {
#pragma unroll
      for (int m = 0; m < S::kTilesDown; ++m) {
#pragma unroll
        for (int n = 0; n < S::kTilesAcross; ++n) {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const int pixel = warp / kWarpsAcross * kWarpPixels + m * 16 + half * 8 + lane / 4;
            *reinterpret_cast<float2*>(outputs.tile + pixel * kPieceStride + column + n * 8 + lane % 4 * 2) =
                make_float2(sums.at[m][n][half * 2], sums.at[m][n][half * 2 + 1]);
          }
        }
      }
    }
    __syncthreads();
    if (chunks) {
      store_chunks<E>(problem, outputs, place.column + piece);
    } else {
      store_elements<E>(problem, outputs, place.column + piece);
    }
  }
}

}  // namespace asl::cuda::pointwise
