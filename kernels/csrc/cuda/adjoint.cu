// The input's gradient at strides above 1, and the list of the rows that read each channel.
#include "gather.h"
#include "launch.cuh"

namespace asl::cuda {
namespace {

constexpr int kThreads = 256;

// One warp per entry: start[c] for the channels 0..C, then the rows sorted by channel and number. A row's place is the
// count of those before it, so no order of threads can change the list. Rows without a channel come last.
__global__ void __launch_bounds__(kThreads) list_readers(const int64_t* source, int64_t step, int rows, int channels,
                                                         int* start, int* list) {
  const int64_t warp = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / 32;
  const int lane = threadIdx.x % 32;
  if (warp > static_cast<int64_t>(channels) + rows) return;
  const auto channel_of = [&](int row) {
    const int64_t channel = __ldg(source + row * step);
    return channel < 0 || channel >= channels ? channels : static_cast<int>(channel);
  };
  const bool of_row = warp > channels;
  const int row = of_row ? static_cast<int>(warp - channels - 1) : 0;
  const int channel = of_row ? channel_of(row) : static_cast<int>(warp);
  int before = 0;
  for (int other = lane; other < rows; other += 32) {
    const int its = channel_of(other);
    before += its < channel || (of_row && its == channel && other < row);
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) before += __shfl_xor_sync(0xffffffffu, before, step);
  if (lane != 0) return;
  if (of_row) {
    list[before] = row;
  } else {
    start[channel] = before;
  }
}

// The output pixels along one axis that have a tap on input pixel p, and the taps' weights.
template <typename A>
struct Hits {
  int at[2];
  A weight[2];

  __device__ __forceinline__ Hits(int p, int base, A near, A far, int step, int count) {
#pragma unroll
    for (int t = 0; t < 2; ++t) {
      const int distance = p - base - t;
      at[t] = distance / step;
      const bool hit = distance >= 0 && at[t] * step == distance && at[t] < count;
      weight[t] = hit ? (t == 0 ? near : far) : A(0);
    }
  }
};

// One input pixel a thread, in the order of memory.
template <typename T>
__global__ void __launch_bounds__(kThreads) gather_strided(const Gather gather, int64_t batch, bool channels_last) {
  using A = compute_t<T>;
  const Problem& problem = gather.problem;
  const int64_t total = batch * problem.channels * problem.pixels();
  const int64_t in_pixels = problem.out_pixels();
  for (int64_t item = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; item < total;
       item += static_cast<int64_t>(gridDim.x) * kThreads) {
    int64_t rest = item;
    const auto take = [&rest](int count) {
      const int at = static_cast<int>(rest % count);
      rest /= count;
      return at;
    };
    int c = channels_last ? take(problem.channels) : 0;
    const int x = take(problem.size[2]), y = take(problem.size[1]), z = take(problem.size[0]);
    if (!channels_last) c = take(problem.channels);
    const T* image = static_cast<const T*>(gather.in) + rest * gather.in_planes * in_pixels;
    int first, last;
    gather.entries(c, first, last);
    A sum = A(0);
    for (int entry = first; entry < last; ++entry) {
      const int k = gather.readers != nullptr ? __ldg(gather.readers + gather.out_planes + 1 + entry) : entry;
      Taps<A> taps;
      if (read_taps(problem, k, false, taps) < 0) continue;
      const Hits<A> zs(z, taps.base[0], taps.near[0], taps.far[0], problem.stride[0], problem.out[0]);
      const Hits<A> ys(y, taps.base[1], taps.near[1], taps.far[1], problem.stride[1], problem.out[1]);
      const Hits<A> xs(x, taps.base[2], taps.near[2], taps.far[2], problem.stride[2], problem.out[2]);
#pragma unroll
      for (int t = 0; t < 8; ++t) {
        const A weight = zs.weight[t / 4] * ys.weight[t / 2 % 2] * xs.weight[t % 2];
        if (weight == A(0)) continue;
        const int64_t pixel =
            (static_cast<int64_t>(zs.at[t / 4]) * problem.out[1] + ys.at[t / 2 % 2]) * problem.out[2] + xs.at[t % 2];
        sum += weight * widened(__ldg(image + (channels_last ? pixel * gather.in_planes + k : k * in_pixels + pixel)));
      }
    }
    static_cast<T*>(gather.out)[item] = narrowed<T>(sum);
  }
}

template <typename T>
const char* gather_strided_typed(const Gather& gather, int64_t batch, bool channels_last, void* stream) {
  const Problem& p = gather.problem;
  const int64_t total = batch * p.channels * p.size[0] * p.size[1] * p.size[2];
  const int64_t blocks = (total + kThreads - 1) / kThreads;
  const dim3 grid(static_cast<unsigned>(blocks < INT32_MAX ? blocks : INT32_MAX));
  return launch(gather_strided<T>, grid, kThreads, 0, stream, gather, batch, channels_last);
}

}  // namespace

const char* list_readers_of(const Problem& problem, int32_t* readers, void* stream) {
  const int64_t warps = static_cast<int64_t>(problem.channels) + 1 + problem.rows;
  const dim3 grid(static_cast<unsigned>((warps * 32 + kThreads - 1) / kThreads));
  return launch(list_readers, grid, kThreads, 0, stream, problem.source, problem.source_step, problem.rows,
                problem.channels, readers, readers + problem.channels + 1);
}

const char* gather_strided_images(const Gather& gather, int64_t batch, int type, bool channels_last, void* stream) {
  switch (type) {
    case kFloat32:
      return gather_strided_typed<float>(gather, batch, channels_last, stream);
    case kFloat64:
      return gather_strided_typed<double>(gather, batch, channels_last, stream);
    case kBFloat16:
      return gather_strided_typed<__nv_bfloat16>(gather, batch, channels_last, stream);
    default:
      return gather_strided_typed<__half>(gather, batch, channels_last, stream);
  }
}

}  // namespace asl::cuda
