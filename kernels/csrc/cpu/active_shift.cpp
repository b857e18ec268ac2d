// The forward op: every output plane is one source plane read through at most 2^D taps.
#include "../ops.h"

#include <torch/csrc/stable/ops.h>

#include "../problem.h"
#include "../rows.h"
#include "dispatch.h"
#include "lane_plan.h"
#include "loops.h"
#include "panel.h"

namespace asl {
namespace {

// Found by measurement: tiles cost planes a turn in and out.
constexpr int64_t kSmallPlane = 32;

thread_local Scratch scratch;

// Pixel by pixel, as many rows at once as a vector has lanes. False where that would take too much memory.
template <typename T>
bool by_lanes(const Problem& problem, const std::vector<RowShift<compute_t<T>>>& shifts, const T* from, T* to) {
  using A = compute_t<T>;
  const LaneLoops<T>& loop = *loops<T>().lanes;
  const LanePlan<A> plan(problem, shifts, loop.lanes, LanePlan<A>::Kind::sample);
  if (!plan.fits()) return false;
  const int64_t pixels = problem.extent.pixels(), out_pixels = problem.extent.out_pixels();
  const int64_t blocks = static_cast<int64_t>(plan.blocks().size());
  const bool last = problem.channels_last;
  const int64_t bytes = ((pixels + out_pixels) * loop.lanes + plan.scratch()) * static_cast<int64_t>(sizeof(A));
  const int64_t work = (pixels + out_pixels) * loop.lanes;
  torch::stable::parallel_for(0, problem.batch * blocks, grain(work), [&](int64_t begin, int64_t end) {
    A* image_tile = static_cast<A*>(scratch.get(bytes));
    A* row_tile = image_tile + pixels * loop.lanes;
    A* rest = row_tile + out_pixels * loop.lanes;
    for (int64_t item = begin; item < end; ++item) {
      const LaneBlock<A>& block = plan.blocks()[item % blocks];
      const T* image = from + item / blocks * problem.channels * pixels;
      T* rows = to + item / blocks * problem.rows * out_pixels;
      const LaneImage source{block.channels, block.count, pixels, problem.channels, last};
      const LaneImage target{block.rows, block.count, out_pixels, problem.rows, last};
      LaneView<const A> x{image_tile, loop.lanes};
      if (!lies_open(source, image, loop.lanes, x)) loop.gather(image_tile, image, source);
      LaneView<A> y{row_tile, loop.lanes};
      const bool open = lies_open(target, rows, loop.lanes, y);
      loop.sample(y.data, y.step, x.data, x.step, block.taps, problem.extent, rest);
      if (!open) loop.scatter(rows, row_tile, target);
    }
  });
  return true;
}

// Plane by plane, as many pixels at once as a vector has lanes.
template <typename T>
void by_pixels(const Problem& problem, const std::vector<RowShift<compute_t<T>>>& shifts, const T* from, T* to) {
  using A = compute_t<T>;
  const std::vector<Taps<A>> taps = sample_taps(shifts);
  const Loops<T>& loop = loops<T>();
  const MaskTable<A> masks(problem.extent, taps, 0, loop.masked_loads);
  const int64_t pixels = problem.extent.pixels(), out_pixels = problem.extent.out_pixels();
  const auto plane_of = [&](int64_t item) {
    return from + (item / problem.rows * problem.channels + problem.source[item % problem.rows]) * pixels;
  };
  torch::stable::parallel_for(0, problem.batch * problem.rows, grain(out_pixels), [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      loop.sample(to + item * out_pixels, plane_of(item), taps[item % problem.rows], problem.extent, masks.view(), 0,
                  out_pixels, item + 1 < end ? plane_of(item + 1) : nullptr);
    }
  });
}

}  // namespace

Tensor active_shift(Tensor x, Tensor shift, std::optional<Tensor> source, std::vector<int64_t> stride,
                    std::vector<int64_t> delta) {
  const Problem problem = check(x, shift, source, stride, delta);
  Tensor output = empty_output(problem, x, problem.rows, problem.channels_last);
  for_type(x.scalar_type(), [&](auto tag) {
    using T = decltype(tag);
    const auto shifts = split_shifts<compute_t<T>>(problem, shift);
    if (output.numel() == 0) return;
    const auto from = [](const Tensor& image) { return static_cast<const T*>(image.data_ptr()); };
    const auto to = [](const Tensor& image) { return static_cast<T*>(image.data_ptr()); };
    if (wants_lanes(problem, kSmallPlane)) {
      const Tensor input = problem.channels_last ? x : row_major(x);
      if (by_lanes(problem, shifts, from(input), to(output))) return;
    }
    const Tensor planes = problem.channels_last ? empty_output(problem, x, problem.rows, false) : output;
    by_pixels(problem, shifts, from(row_major(x)), to(planes));
    output = in_problem_format(problem, planes);
  });
  return output;
}

}  // namespace asl
