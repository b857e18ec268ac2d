// The shift gradient of images with their channels last, at stride 1: x comes through shared memory.
#include "pixel_tiles.cuh"
#include "slopes.h"
#include "tap_sums.cuh"

namespace asl::cuda {
namespace {

// A row of the op. The taps start one pixel earlier along an axis whose offset is whole: there the slope is the central
// difference.
struct __align__(16) TileSlopes {
  float below, right;  // fractions
  int y, x;
};

template <typename T>
struct LaneSlopes {
  static constexpr int kEach = 4 / sizeof(T);
  TileSlopes row[kEach];
  int channel[kEach];  // -1 where the row is not usable
  bool exists;

  __device__ __forceinline__ LaneSlopes(const TileSlopes* table, const int* channels, int first, int rows, int lane) {
    exists = first < rows;
#pragma unroll
    for (int r = 0; r < kEach; ++r) {
      row[r] = exists ? table[lane * kEach + r] : TileSlopes{0.5f, 0.5f, 0, 0};
      channel[r] = exists ? channels[lane * kEach + r] : -1;
    }
  }
  __device__ __forceinline__ bool whole(int r) const {
    return channel[r] >= 0 && (row[r].below == 0.0f || row[r].right == 0.0f);
  }
  __device__ __forceinline__ PixelBox box(const TilePlace& place, int channels, int lines) const {
    constexpr int kNone = 2000000000;
    int low[3] = {kNone, kNone, kNone}, high[3] = {-kNone, -kNone, -kNone};
#pragma unroll
    for (int r = 0; r < kEach; ++r) {
      if (channel[r] < 0) continue;
      low[0] = min(low[0], row[r].y);
      low[1] = min(low[1], row[r].x);
      low[2] = min(low[2], channel[r]);
      high[0] = max(high[0], row[r].y + (row[r].below == 0.0f ? 2 : 1));
      high[1] = max(high[1], row[r].x + (row[r].right == 0.0f ? 2 : 1));
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

// sums += gradient times pixel over a run, for two taps along each axis. A run that ends early needs TAIL.
template <typename T, bool TAIL>
__device__ __forceinline__ void add_run(TapSums<float> (&sums)[GradRun<T>::kEach], const GradRun<T>& grad,
                                        const char* const (&corner)[GradRun<T>::kEach], int row_bytes, int count) {
#pragma unroll
  for (int i = 0; i <= kTileRun; ++i) {
#pragma unroll
    for (int r = 0; r < GradRun<T>::kEach; ++r) {
#pragma unroll
      for (int ty = 0; ty < 2; ++ty) {
        const float pixel = widened(*reinterpret_cast<const T*>(corner[r] + i * kLineBytes + ty * row_bytes));
        // A pixel of 0 adds nothing, whatever the gradient is: such are all that lie outside the image.
        if (i < kTileRun && (!TAIL || i < count) && pixel != 0.0f) {
          sums[r].at[ty][0] = fmaf(widened(grad.at[i < kTileRun ? i : 0].at[r]), pixel, sums[r].at[ty][0]);
        }
        if (i > 0 && (!TAIL || i <= count) && pixel != 0.0f) {
          sums[r].at[ty][1] = fmaf(widened(grad.at[i > 0 ? i - 1 : 0].at[r]), pixel, sums[r].at[ty][1]);
        }
      }
    }
    if (TAIL && i == kTileRun / 2 && count <= kTileRun / 2) break;
  }
}

template <typename T>
__global__ void __launch_bounds__(kTileThreads, kTileBlocks) slope_tiles_kernel(const SlopeSums given,
                                                                                const PixelTiles tiles) {
  constexpr int kEach = LaneSlopes<T>::kEach, kChannels = kLineBytes / sizeof(T);
  ASL_DYNAMIC_SHARED(char, stage);
  const Problem& problem = given.problem;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const TilePlace place(tiles, static_cast<int>(blockIdx.x));
  const int first = place.slab * kChannels;
  // The table lies where the stage will be.
  TileSlopes* const table = reinterpret_cast<TileSlopes*>(stage);
  int* const channels = reinterpret_cast<int*>(table + kChannels);
  if (threadIdx.x < kChannels && first + static_cast<int>(threadIdx.x) < problem.rows) {
    int base[2];
    float fraction[2];
    channels[threadIdx.x] = read_plane_row(problem, first + threadIdx.x, base, fraction);
    table[threadIdx.x] = {fraction[0], fraction[1], base[0] - (fraction[0] == 0.0f), base[1] - (fraction[1] == 0.0f)};
  }
  __syncthreads();
  const int row = first + lane * kEach;
  const LaneSlopes<T> taps(table, channels, row, problem.rows, lane);
  const PixelBox box = taps.box(place, problem.channels, tiles.lines);
  __syncthreads();
  if (box.fits) stage_pixels<T>(given.x, problem.size, problem.channels, place, box, stage);

  const auto upstream = [&](const TileRun& run) {
    const int64_t line = static_cast<int64_t>(place.image + run.image) * tiles.height + place.y + run.y;
    return static_cast<const T*>(given.grad) + (line * tiles.width + place.x + run.x) * problem.rows + row;
  };
  bool special = false;
  int offset[kEach];
#pragma unroll
  for (int r = 0; r < kEach; ++r) {
    special = special || taps.whole(r);
    offset[r] = 0;
    if (taps.channel[r] >= 0 && box.fits) {
      offset[r] = ((taps.row[r].y - box.y) * box.width + taps.row[r].x - box.x) * kLineBytes +
                  (taps.channel[r] - box.channel) * static_cast<int>(sizeof(T));
    }
  }
  const bool whole = __any_sync(0xffffffffu, special);
  float2 slopes[kEach];
  if (box.fits && !whole) {
    TapSums<float> sums[kEach];
    GradRun<T> next;
    TileRun run(tiles, place, warp);
    next.fetch(upstream(run), problem.rows, taps.exists ? run.count : 0);
    cp_async_wait<0>();
    __syncthreads();
#pragma unroll 1
    for (int number = warp; number < tiles.runs; number += kTileWarps) {
      const GradRun<T> grad = next;
      const char* corner[kEach];
#pragma unroll
      for (int r = 0; r < kEach; ++r) {
        corner[r] = stage + ((run.image * box.height + run.y) * box.width + run.x) * kLineBytes + offset[r];
      }
      const int count = run.count;
      run = TileRun(tiles, place, number + kTileWarps);
      next.fetch(upstream(run), problem.rows, taps.exists ? run.count : 0);
      if (count == kTileRun) {
        add_run<T, false>(sums, grad, corner, box.width * kLineBytes, count);
      } else if (count > 0) {
        add_run<T, true>(sums, grad, corner, box.width * kLineBytes, count);
      }
    }
#pragma unroll
    for (int r = 0; r < kEach; ++r) {
      weigh(sums[r], taps.row[r].below, taps.row[r].right, slopes[r].x, slopes[r].y);
    }
  } else {
    // Central differences, far shifts, or rows whose channels lie too far apart: three taps, one channel at a time.
    cp_async_wait<0>();
    __syncthreads();
#pragma unroll 1
    for (int r = 0; r < kEach; ++r) {
      const TileSlopes mine = taps.row[r == 0 ? 0 : kEach - 1];
      const int channel = taps.channel[r == 0 ? 0 : kEach - 1];
      const int reach_y = mine.below == 0.0f ? 3 : 2, reach_x = mine.right == 0.0f ? 3 : 2;
      const int first_tap = r == 0 ? offset[0] : offset[kEach - 1];
      TapSums<float> sum;
#pragma unroll 1
      for (int number = warp; number < tiles.runs; number += kTileWarps) {
        if (channel < 0) break;
        const TileRun run(tiles, place, number);
        const T* from = upstream(run);
        // The box of far shifts may be too wide for products of 32 bits.
        const int line = box.fits ? (run.image * box.height + run.y) * box.width + run.x : 0;
        const char* corner = stage + first_tap + line * kLineBytes;
        const T* x = static_cast<const T*>(given.x) + channel +
                     static_cast<int64_t>(place.image + run.image) * problem.size[1] * problem.size[2] * problem.channels;
#pragma unroll 1
        for (int i = 0; i < run.count; ++i, from += problem.rows) {
          const float grad = widened(__ldg(from + r));
#pragma unroll
          for (int tap = 0; tap < 9; ++tap) {
            if (tap / 3 >= reach_y || tap % 3 >= reach_x) continue;
            float pixel = 0.0f;
            if (box.fits) {
              pixel = widened(*reinterpret_cast<const T*>(corner + (tap / 3 * box.width + i + tap % 3) * kLineBytes));
            } else {
              const int at_y = place.y + run.y + mine.y + tap / 3;
              const int at_x = place.x + run.x + i + mine.x + tap % 3;
              if (within(at_y, problem.size[1]) && within(at_x, problem.size[2])) {
                pixel = widened(__ldg(x + (static_cast<int64_t>(at_y) * problem.size[2] + at_x) * problem.channels));
              }
            }
            if (pixel != 0.0f) sum.at[tap / 3][tap % 3] = fmaf(grad, pixel, sum.at[tap / 3][tap % 3]);
          }
        }
      }
      float2 both;
      weigh(sum, mine.below, mine.right, both.x, both.y);
      slopes[kEach - 1] = both;
      if (r == 0) slopes[0] = both;
    }
  }

  // The warps' sums in order; the stage is no longer read.
  __syncthreads();
  constexpr int kValues = 32 * kEach * 2;
  float* all = reinterpret_cast<float*>(stage);
#pragma unroll
  for (int r = 0; r < kEach; ++r) {
    if (taps.channel[r] < 0) slopes[r] = make_float2(not_a_number<float>(), not_a_number<float>());
    reinterpret_cast<float2*>(all)[warp * (kValues / 2) + lane * kEach + r] = slopes[r];
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
