// Bilinear samples of a patch, or of half of one, by a warp: a lane takes its rows of the slab at all pixels.
#pragma once

#include "pointwise_stage.cuh"

namespace asl::cuda::pointwise {

// The warp's pixels within the tile.
struct Patch {
  int image, y, x;  // y and x in output pixels from the tile's first
  int line;         // of the first pixel in the left operand
};
static_assert(sizeof(Patch) == kPatchBytes);

// What a lane keeps of its rows while it walks over the patch.
template <typename E>
struct LaneRows {
  float2 fraction[E::kLaneRows];
  int2 whole[E::kLaneRows];
  int channel[E::kLaneRows];
  uint32_t kept;  // the bits of a word whose rows do not lie past K

  __device__ __forceinline__ LaneRows(const Table& table, int at, int lane) {
    kept = 0;
#pragma unroll
    for (int r = 0; r < E::kLaneRows; ++r) {
      const int entry = at * kSlab<E> + lane * E::kLaneRows + r;
      fraction[r] = table.fraction[entry];
      whole[r] = table.whole[entry];
      channel[r] = table.channel[entry];
      if (channel[r] >= 0) kept |= E::kLaneRows == 1 ? 0xffffffffu : 0xffffu << 16 * r;
    }
  }

  // One pixel's samples into its line of the left operand.
  __device__ __forceinline__ void store(char* left, int line, int lane, float (&sample)[E::kLaneRows]) const {
    *reinterpret_cast<uint32_t*>(left + swizzled(line, lane * 4)) = E::word(sample) & kept;
  }
};

// Byte offset of each row's first tap in the stage, seen from the box's corner.
template <typename E>
__device__ __forceinline__ int tap_offset(const LaneRows<E>& rows, const Box& box, int r, int lane) {
  if (rows.channel[r] < 0) return 0;
  const int element = box.way == Way::channels ? rows.channel[r] - box.channel : lane * E::kLaneRows + r;
  return ((rows.whole[r].y - box.y) * box.width + rows.whole[r].x - box.x) * kLine + element * E::kBytes;
}

// Stride 1 from the stage: neighbouring samples share taps, so a patch needs 25 loads for 16 samples.
template <typename E, int ROWS>
__device__ __forceinline__ void sample_neighbours(const LaneRows<E>& rows, const Box& box, const Patch& patch,
                                                  const char* stage, char* left, int lane) {
  const int corner = ((patch.image * box.height + patch.y) * box.width + patch.x) * kLine;
  const char* from[E::kLaneRows];
#pragma unroll
  for (int r = 0; r < E::kLaneRows; ++r) from[r] = stage + corner + tap_offset(rows, box, r, lane);
  float above[E::kLaneRows][kPatch];
#pragma unroll
  for (int y = 0; y <= ROWS; ++y) {
    float across[E::kLaneRows][kPatch];
#pragma unroll
    for (int r = 0; r < E::kLaneRows; ++r) {
      float tap[kPatch + 1];
#pragma unroll
      for (int x = 0; x <= kPatch; ++x) {
        tap[x] = E::widen(*reinterpret_cast<const typename E::Stored*>(from[r] + x * kLine));
      }
      from[r] += box.width * kLine;
      const float right = rows.fraction[r].x;
#pragma unroll
      for (int x = 0; x < kPatch; ++x) {
        const float mixed = fmaf(right, tap[x + 1], (1.0f - right) * tap[x]);
        across[r][x] = right == 0.0f ? tap[x] : mixed;
      }
    }
#pragma unroll
    for (int x = 0; x < kPatch; ++x) {
      if (y > 0) {
        float sample[E::kLaneRows];
#pragma unroll
        for (int r = 0; r < E::kLaneRows; ++r) {
          const float below = rows.fraction[r].y;
          const float mixed = fmaf(below, across[r][x], (1.0f - below) * above[r][x]);
          sample[r] = below == 0.0f ? above[r][x] : mixed;
        }
        rows.store(left, patch.line + (y - 1) * kPatch + x, lane, sample);
      }
#pragma unroll
      for (int r = 0; r < E::kLaneRows; ++r) above[r][x] = across[r][x];
    }
  }
}

// Any stride: four taps a sample, each by `tap(r, y, x)`, where y and x count from the patch's first tap.
template <typename E, int ROWS, typename Tap>
__device__ __forceinline__ void sample_each(const PointwiseProblem& problem, const LaneRows<E>& rows, const Tap& tap,
                                            char* left, int first_line, int lane) {
  const int stride_y = static_cast<int>(problem.stride[1]), stride_x = static_cast<int>(problem.stride[2]);
#pragma unroll 1
  for (int pixel = 0; pixel < ROWS * kPatch; ++pixel) {
    const int y = pixel / kPatch * stride_y, x = pixel % kPatch * stride_x;
    float sample[E::kLaneRows];
#pragma unroll
    for (int r = 0; r < E::kLaneRows; ++r) {
      const float right = rows.fraction[r].x, below = rows.fraction[r].y;
      float upper = tap(r, y, x);
      if (right != 0.0f) upper = fmaf(right, tap(r, y, x + 1), (1.0f - right) * upper);
      sample[r] = upper;
      if (below != 0.0f) {
        float lower = tap(r, y + 1, x);
        if (right != 0.0f) lower = fmaf(right, tap(r, y + 1, x + 1), (1.0f - right) * lower);
        sample[r] = fmaf(below, lower, (1.0f - below) * upper);
      }
    }
    rows.store(left, first_line + pixel, lane, sample);
  }
}

// One warp's pixels of one slab.
template <typename E, int ROWS>
__device__ __forceinline__ void sample_patch(const PointwiseProblem& problem, const Table& table, int at,
                                             const Place& place, const Patch& patch, const char* stage, char* left) {
  const int lane = threadIdx.x % 32;
  const LaneRows<E> rows(table, at, lane);
  const Box box = table.box[at];
  const int stride_y = static_cast<int>(problem.stride[1]), stride_x = static_cast<int>(problem.stride[2]);
  if (box.way == Way::direct) {
    const auto* x = static_cast<const typename E::Stored*>(problem.x);
    const int64_t plane = problem.size[1] * problem.size[2];
    const auto tap = [&](int r, int tap_y, int tap_x) {
      const int at_y = (place.out_y + patch.y) * stride_y + rows.whole[r].y + tap_y;
      const int at_x = (place.out_x + patch.x) * stride_x + rows.whole[r].x + tap_x;
      const bool inside = rows.channel[r] >= 0 && at_y >= 0 && at_y < problem.size[1] &&
                          at_x >= 0 && at_x < problem.size[2];
      const int64_t channel = problem.channels_last ? rows.channel[r] : rows.channel[r] * plane;
      return inside ? E::widen(x[pixel_offset(problem, place, patch.image, at_y, at_x) + channel]) : 0.0f;
    };
    sample_each<E, ROWS>(problem, rows, tap, left, patch.line, lane);
  } else if (stride_y == 1 && stride_x == 1) {
    sample_neighbours<E, ROWS>(rows, box, patch, stage, left, lane);
  } else {
    const int corner = ((patch.image * box.height + patch.y * stride_y) * box.width + patch.x * stride_x) * kLine;
    int from[E::kLaneRows];
    for (int r = 0; r < E::kLaneRows; ++r) from[r] = corner + tap_offset(rows, box, r, lane);
    const auto tap = [&](int r, int tap_y, int tap_x) {
      const int offset = from[r] + (tap_y * box.width + tap_x) * kLine;
      return E::widen(*reinterpret_cast<const typename E::Stored*>(stage + offset));
    };
    sample_each<E, ROWS>(problem, rows, tap, left, patch.line, lane);
  }
}

}  // namespace asl::cuda::pointwise
