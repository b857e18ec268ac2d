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
  Row row[E::kLaneRows];
  uint32_t kept;  // the bits of a word whose rows do not lie past K

  __device__ __forceinline__ LaneRows(const Table& table, int at, int lane) {
    kept = 0;
#pragma unroll
    for (int r = 0; r < E::kLaneRows; ++r) {
      row[r] = table.row[at * kSlab<E> + lane * E::kLaneRows + r];
      if (row[r].channel >= 0) kept |= E::kLaneRows == 1 ? 0xffffffffu : 0xffffu << 16 * r;
    }
  }

  // One pixel's samples into its line of the left operand.
  __device__ __forceinline__ void store(char* left, int line, int lane, float (&sample)[E::kLaneRows]) const {
    *reinterpret_cast<uint32_t*>(left + swizzled(line, lane * 4)) = E::word(sample) & kept;
  }
};

// Stride 1 from the stage: neighbouring samples share taps, so a patch needs 25 loads for 16 samples.
template <typename E, int ROWS>
__device__ __forceinline__ void sample_neighbours(const LaneRows<E>& rows, const Box& box, const Patch& patch,
                                                  const char* stage, char* left, int lane) {
  const int corner = ((patch.image * box.height + patch.y) * box.width + patch.x) * kLine;
  const char* from[E::kLaneRows];
#pragma unroll
  for (int r = 0; r < E::kLaneRows; ++r) from[r] = stage + corner + rows.row[r].offset;
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
      const float right = rows.row[r].right;
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
          const float below = rows.row[r].below;
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
__device__ __forceinline__ void sample_each(const PointwiseTiles& tiles, const LaneRows<E>& rows, const Tap& tap,
                                            char* left, int first_line, int lane) {
#pragma unroll 1
  for (int pixel = 0; pixel < ROWS * kPatch; ++pixel) {
    const int y = pixel / kPatch * tiles.stride_y, x = pixel % kPatch * tiles.stride_x;
    float sample[E::kLaneRows];
#pragma unroll
    for (int r = 0; r < E::kLaneRows; ++r) {
      const float right = rows.row[r].right, below = rows.row[r].below;
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
__device__ __forceinline__ void sample_patch(const PointwiseProblem& problem, const PointwiseTiles& tiles,
                                             const Table& table, int at, const Place& place, const Patch& patch,
                                             const char* stage, char* left) {
  const int lane = threadIdx.x % 32;
  const LaneRows<E> rows(table, at, lane);
  const Box box = table.box[at];
  const int stride_y = tiles.stride_y, stride_x = tiles.stride_x;
  if (box.way == Way::direct) {
    const auto* x = static_cast<const typename E::Stored*>(problem.x);
    const int64_t plane = problem.size[1] * problem.size[2];
    int2 whole[E::kLaneRows];
#pragma unroll
    for (int r = 0; r < E::kLaneRows; ++r) whole[r] = table.whole[at * kSlab<E> + lane * E::kLaneRows + r];
    const auto tap = [&](int r, int tap_y, int tap_x) {
      const int at_y = (place.out_y + patch.y) * stride_y + whole[r].y + tap_y;
      const int at_x = (place.out_x + patch.x) * stride_x + whole[r].x + tap_x;
      const bool inside = rows.row[r].channel >= 0 && at_y >= 0 && at_y < tiles.height &&
                          at_x >= 0 && at_x < tiles.width;
      const int64_t channel = problem.channels_last ? rows.row[r].channel : rows.row[r].channel * plane;
      return inside ? E::widen(x[pixel_offset(problem, tiles, place, patch.image, at_y, at_x) + channel]) : 0.0f;
    };
    sample_each<E, ROWS>(tiles, rows, tap, left, patch.line, lane);
  } else if (stride_y == 1 && stride_x == 1) {
    sample_neighbours<E, ROWS>(rows, box, patch, stage, left, lane);
  } else {
    const int corner = ((patch.image * box.height + patch.y * stride_y) * box.width + patch.x * stride_x) * kLine;
    int from[E::kLaneRows];
#pragma unroll
    for (int r = 0; r < E::kLaneRows; ++r) from[r] = corner + rows.row[r].offset;
    const auto tap = [&](int r, int tap_y, int tap_x) {
      const int offset = from[r] + (tap_y * box.width + tap_x) * kLine;
      return E::widen(*reinterpret_cast<const typename E::Stored*>(stage + offset));
    };
    sample_each<E, ROWS>(tiles, rows, tap, left, patch.line, lane);
  }
}

}  // namespace asl::cuda::pointwise
