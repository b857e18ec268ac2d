// The shift gradient of images with their channels last, at stride 1: x comes through shared memory.
#include "pixel_tiles.cuh"
#include "slopes.h"

namespace asl::cuda {
namespace {

// A lane's channels. The taps start one pixel earlier along an axis whose offset is whole: there the slope is the
// central difference.
template <typename T>
struct LaneSlopes {
  static constexpr int kEach = 4 / sizeof(T);
  int y[kEach], x[kEach], channel[kEach];  // -1 where the row is not usable
  float below[kEach], right[kEach];        // fractions
  bool exists;

  __device__ __forceinline__ LaneSlopes(const Problem& problem, int row) {
    exists = row < problem.rows;
#pragma unroll
    for (int r = 0; r < kEach; ++r) {
      int base[3] = {0, 0, 0};
      float fraction[3] = {0.5f, 0.5f, 0.5f};
      channel[r] = exists ? read_row(problem, row + r, base, fraction) : -1;
      y[r] = base[1] - (fraction[1] == 0.0f);
      x[r] = base[2] - (fraction[2] == 0.0f);
      below[r] = fraction[1];
      right[r] = fraction[2];
    }
  }
  __device__ __forceinline__ PixelBox box(const TilePlace& place, int channels, int lines) const {
    constexpr int kNone = 2000000000;
    int low[3] = {kNone, kNone, kNone}, high[3] = {-kNone, -kNone, -kNone};
#pragma unroll
    for (int r = 0; r < kEach; ++r) {
      if (channel[r] < 0) continue;
      low[0] = min(low[0], y[r]);
      low[1] = min(low[1], x[r]);
      low[2] = min(low[2], channel[r]);
      high[0] = max(high[0], y[r] + (below[r] == 0.0f ? 2 : 1));
      high[1] = max(high[1], x[r] + (right[r] == 0.0f ? 2 : 1));
      high[2] = max(high[2], channel[r]);
    }
    return PixelBox(place, low, high, channels, kLineBytes / sizeof(T), lines);
  }
};

// A run of the gradient as it lies in memory, so that the next one can be under way.
template <typename T>
struct GradRun {
  static constexpr int kEach = 4 / sizeof(T);
  Pack<T, kEach> at[kTileRun];

  __device__ __forceinline__ void fetch(const T* from, int rows, int count) {
#pragma unroll
    for (int i = 0; i < kTileRun; ++i, from += rows) {
      if (i < count) at[i] = load_pack<T, kEach>(from);
    }
  }
};

// Gradient times pixel, summed per tap: sums[ty][tx].
struct TapSums {
  float at[3][3] = {};
};

// What the taps' sums are in the slopes along y and x. A weight of 0 must not turn another tap's NaN into its own.
__device__ __forceinline__ void weigh(const TapSums& sums, float below, float right, float& along_y, float& along_x) {
  const auto weights = [](float fraction, float (&sample)[3], float (&slope)[3]) {
    const bool whole = fraction == 0.0f;
    sample[0] = whole ? 0.0f : 1.0f - fraction;
    sample[1] = whole ? 1.0f : fraction;
    sample[2] = 0.0f;
    slope[0] = whole ? -0.5f : -1.0f;
    slope[1] = whole ? 0.0f : 1.0f;
    slope[2] = whole ? 0.5f : 0.0f;
  };
  float sample_y[3], slope_y[3], sample_x[3], slope_x[3];
  weights(below, sample_y, slope_y);
  weights(right, sample_x, slope_x);
  along_y = along_x = 0.0f;
#pragma unroll
  for (int tap = 0; tap < 9; ++tap) {
    const float y = slope_y[tap / 3] * sample_x[tap % 3], x = sample_y[tap / 3] * slope_x[tap % 3];
    if (y != 0.0f) along_y += y * sums.at[tap / 3][tap % 3];
    if (x != 0.0f) along_x += x * sums.at[tap / 3][tap % 3];
  }
}

template <typename T>
__global__ void __launch_bounds__(kTileThreads, 3) slope_tiles_kernel(const SlopeSums given,
                                                                                const PixelTiles tiles) {
  constexpr int kEach = LaneSlopes<T>::kEach;
  ASL_DYNAMIC_SHARED(char, stage);
  const Problem& problem = given.problem;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const TilePlace place(tiles, blockIdx.x);
  const int row = place.slab * (kLineBytes / static_cast<int>(sizeof(T))) + lane * kEach;
  const LaneSlopes<T> taps(problem, row);
  const PixelBox box = taps.box(place, problem.channels, tiles.lines);
  if (box.fits) stage_pixels<T>(given.x, problem.size, problem.channels, place, box, stage);

  const TileRuns runs(place);
  const auto place_of = [&](int number, int& image, int& y, int& x0, int& count) {
    runs.at(place, number, image, y, x0);
    count = taps.exists ? min(place.columns - x0, kTileRun) : 0;
    const int64_t line = static_cast<int64_t>(place.image + image) * tiles.height + place.y + y;
    return static_cast<const T*>(given.grad) + (line * tiles.width + place.x + x0) * problem.rows + row;
  };
  bool mine = false;
#pragma unroll
  for (int r = 0; r < kEach; ++r) mine = mine || (taps.channel[r] >= 0 && (taps.below[r] == 0.0f || taps.right[r] == 0.0f));
  const bool whole = __any_sync(0xffffffffu, mine);
  int offset[kEach];
#pragma unroll
  for (int r = 0; r < kEach; ++r) {
    offset[r] = taps.channel[r] < 0 ? 0
                                    : ((taps.y[r] - box.y) * box.width + taps.x[r] - box.x) * kLineBytes +
                                          (taps.channel[r] - box.channel) * static_cast<int>(sizeof(T));
  }

  TapSums sums[kEach];
  if (box.fits && !whole) {
    GradRun<T> next;
    int image, y, x0, count;
    const T* from = place_of(warp, image, y, x0, count);
    if (warp < runs.count) next.fetch(from, problem.rows, count);
    cp_async_wait<0>();
    __syncthreads();
#pragma unroll 1
    for (int number = warp; number < runs.count; number += kTileWarps) {
      const GradRun<T> grad = next;
      const char* corner = stage + ((image * box.height + y) * box.width + x0) * kLineBytes;
      const int here = count;
      if (number + kTileWarps < runs.count) {
        from = place_of(number + kTileWarps, image, y, x0, count);
        next.fetch(from, problem.rows, count);
      }
#pragma unroll
      for (int i = 0; i <= kTileRun; ++i) {
#pragma unroll
        for (int r = 0; r < kEach; ++r) {
#pragma unroll
          for (int ty = 0; ty < 2; ++ty) {
            const char* at = corner + offset[r] + i * kLineBytes + ty * box.width * kLineBytes;
            const float pixel = widened(*reinterpret_cast<const T*>(at));
            // A pixel of 0 adds nothing, whatever the gradient is: such are all that lie outside the image.
            if (i < kTileRun && i < here && pixel != 0.0f) {
              sums[r].at[ty][0] = fmaf(widened(grad.at[i < kTileRun ? i : 0].at[r]), pixel, sums[r].at[ty][0]);
            }
            if (i > 0 && i <= here && pixel != 0.0f) {
              sums[r].at[ty][1] = fmaf(widened(grad.at[i > 0 ? i - 1 : 0].at[r]), pixel, sums[r].at[ty][1]);
            }
          }
        }
      }
    }
  } else {
    // Central differences, far shifts, or rows whose channels lie too far apart: three taps, one channel at a time.
    cp_async_wait<0>();
    __syncthreads();
#pragma unroll
    for (int r = 0; r < kEach; ++r) {
      if (taps.channel[r] < 0) continue;
      const int reach_y = taps.below[r] == 0.0f ? 3 : 2, reach_x = taps.right[r] == 0.0f ? 3 : 2;
#pragma unroll 1
      for (int number = warp; number < runs.count; number += kTileWarps) {
        int image, y, x0, count;
        const T* from = place_of(number, image, y, x0, count);
        const char* corner = stage + offset[r] + ((image * box.height + y) * box.width + x0) * kLineBytes;
        const T* x = static_cast<const T*>(given.x) + taps.channel[r] +
                     static_cast<int64_t>(place.image + image) * problem.size[1] * problem.size[2] * problem.channels;
#pragma unroll 1
        for (int i = 0; i < count; ++i, from += problem.rows) {
          const float grad = widened(__ldg(from + r));
#pragma unroll
          for (int tap = 0; tap < 9; ++tap) {
            if (tap / 3 >= reach_y || tap % 3 >= reach_x) continue;
            float pixel = 0.0f;
            if (box.fits) {
              pixel = widened(*reinterpret_cast<const T*>(corner + (tap / 3 * box.width + i + tap % 3) * kLineBytes));
            } else {
              const int at_y = place.y + y + taps.y[r] + tap / 3, at_x = place.x + x0 + i + taps.x[r] + tap % 3;
              if (within(at_y, problem.size[1]) && within(at_x, problem.size[2])) {
                pixel = widened(__ldg(x + (static_cast<int64_t>(at_y) * problem.size[2] + at_x) * problem.channels));
              }
            }
            if (pixel != 0.0f) sums[r].at[tap / 3][tap % 3] = fmaf(grad, pixel, sums[r].at[tap / 3][tap % 3]);
          }
        }
      }
    }
  }

  // The warps' sums in order; the stage is no longer read.
  __syncthreads();
  constexpr int kValues = 32 * kEach * 2;
  float* all = reinterpret_cast<float*>(stage);
#pragma unroll
  for (int r = 0; r < kEach; ++r) {
    float2 both;
    weigh(sums[r], taps.below[r], taps.right[r], both.x, both.y);
    if (taps.channel[r] < 0) both = make_float2(not_a_number<float>(), not_a_number<float>());
    reinterpret_cast<float2*>(all)[warp * (kValues / 2) + lane * kEach + r] = both;
  }
  __syncthreads();
  const int value = threadIdx.x, to = place.slab * (kValues / 2) + value / 2;
  if (value >= kValues || to >= problem.rows) return;
  float sum = all[value];
#pragma unroll
  for (int other = 1; other < kTileWarps; ++other) sum += all[other * kValues + value];
  const int64_t chunk = blockIdx.x / tiles.slabs;
  static_cast<float*>(given.partial)[(chunk * problem.rows + to) * 3 + 1 + value % 2] = sum;
}

}  // namespace

bool plan_slope_tiles(const SlopeSums& given, int64_t batch, int type, PixelTiles* tiles) {
  const Problem& p = given.problem;
  return plan_pixel_tiles(p, {given.x, given.grad, p.channels, p.rows, p.size, p.out}, batch, type, tiles);
}

const char* slope_tiles(const SlopeSums& given, const PixelTiles& tiles, int type, void* stream) {
  const auto start = [&](auto kernel) {
    return launch(kernel, dim3(static_cast<unsigned>(tiles.blocks)), dim3(kTileThreads),
                  static_cast<size_t>(tiles.lines) * kLineBytes, stream, given, tiles);
  };
  switch (type) {
    case kFloat32:
      return start(slope_tiles_kernel<float>);
    case kBFloat16:
      return start(slope_tiles_kernel<__nv_bfloat16>);
    default:
      return start(slope_tiles_kernel<__half>);
  }
}

}  // namespace asl::cuda
