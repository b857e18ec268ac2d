// The backward op. Both gradients sum in an order that does not depend on the number of threads.
#include "../ops.h"

#include <algorithm>
#include <optional>
#include <type_traits>

#include <torch/csrc/stable/ops.h>

#include "../problem.h"
#include "../rows.h"
#include "dispatch.h"
#include "lane_plan.h"
#include "loops.h"
#include "panel.h"

namespace asl {
namespace {

// Found by measurement: a plane's slopes take several passes, a tile's one.
constexpr int64_t kSmallPlane = 100;
// Of smaller images the taps of the adjoint cost more to lay out than they save.
constexpr int64_t kFewestGathered = 32;

thread_local Scratch scratch;

// A thread owns a source plane and adds every row that reads it, in the order of the rows. Stride 1 and an output of
// the image's size, so that the adjoint is a sample at the negated offsets.
template <typename T>
void input_by_pixels(const Problem& problem, const std::vector<Taps<compute_t<T>>>& taps, const T* grad, T* result) {
  using A = compute_t<T>;
  const Loops<T>& loop = loops<T>();
  const int64_t pixels = problem.extent.pixels();
  std::vector<std::vector<int64_t>> readers(problem.channels);
  for (int64_t k = 0; k < problem.rows; ++k) readers[problem.source[k]].push_back(k);
  std::vector<Taps<A>> back;
  for (const auto& row : taps) back.push_back(negated(row));
  const MaskTable<A> masks(problem.extent, back, 0, loop.masked_loads);

  const int64_t work = pixels * (problem.rows / std::max<int64_t>(problem.channels, 1) + 1);
  torch::stable::parallel_for(0, problem.batch * problem.channels, grain(work), [&](int64_t begin, int64_t end) {
    std::vector<A> sums(std::min(pixels, kChunk));
    for (int64_t item = begin; item < end; ++item) {
      const int64_t n = item / problem.channels;
      const std::vector<int64_t>& rows = readers[item % problem.channels];
      const T* grads = grad + n * problem.rows * pixels;
      T* plane = result + item * pixels;
      for (int64_t at = 0; at < pixels; at += kChunk) {
        const int64_t stop = std::min(pixels, at + kChunk);
        if (rows.size() == 1) {
          loop.sample(plane + at, grads + rows[0] * pixels, back[rows[0]], problem.extent, masks.view(), at, stop,
                      grads + rows[0] * pixels + stop);
          continue;
        }
        std::fill(sums.begin(), sums.end(), A(0));
        for (size_t i = 0; i < rows.size(); ++i) {
          const T* next = grads + rows[i + 1 < rows.size() ? i + 1 : i] * pixels + at;
          loop.sample_add(sums.data(), grads + rows[i] * pixels, back[rows[i]], problem.extent, masks.view(), at, stop,
                          next);
        }
        loop.store(plane + at, sums.data(), stop - at);
      }
    }
  });
}

// The same for any stride and output size. Only for problems that no other loop serves, so that it is plain.
template <typename T>
void input_by_taps(const Problem& problem, const std::vector<Taps<compute_t<T>>>& taps, const T* grad, T* result) {
  using A = compute_t<T>;
  const Loops<T>& loop = loops<T>();
  const Extent& extent = problem.extent;
  const int64_t pixels = extent.pixels(), out_pixels = extent.out_pixels();
  const auto add_row = [&](A* sums, const T* grads, const Taps<A>& row) {
    for (int64_t line = 0; line < extent.out[0] * extent.out[1]; ++line, grads += extent.out[2]) {
      for (int tap = 0; tap < row.count[0] * row.count[1] * row.count[2]; ++tap) {
        const int d = tap % row.count[0], t = tap / row.count[0] % row.count[1], c = tap / (row.count[0] * row.count[1]);
        const int64_t z = line / extent.out[1] * extent.stride[0] + row.offset[0][d];
        const int64_t y = line % extent.out[1] * extent.stride[1] + row.offset[1][t];
        if (z < 0 || z >= extent.size[0] || y < 0 || y >= extent.size[1]) continue;
        const A weight = row.weight[0][d] * row.weight[1][t] * row.weight[2][c];
        A* target = sums + (z * extent.size[1] + y) * extent.size[2];
        const int64_t step = extent.stride[2], dx = row.offset[2][c];
        const int64_t first = std::max<int64_t>(0, dx < 0 ? (step - 1 - dx) / step : 0);
        for (int64_t i = first; i < extent.out[2] && i * step + dx < extent.size[2]; ++i) {
          target[i * step + dx] += weight * widened(grads[i]);
        }
      }
    }
  };
  torch::stable::parallel_for(0, problem.batch * problem.channels, 1, [&](int64_t begin, int64_t end) {
    std::vector<A> sums(pixels);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t n = item / problem.channels, channel = item % problem.channels;
      std::fill(sums.begin(), sums.end(), A(0));
      for (int64_t k = 0; k < problem.rows; ++k) {
        if (problem.source[k] == channel) add_row(sums.data(), grad + (n * problem.rows + k) * out_pixels, taps[k]);
      }
      loop.store(result + item * pixels, sums.data(), pixels);
    }
  });
}

// One partial sum per image and row, then the images in order.
template <typename T>
std::vector<double> shift_by_pixels(const Problem& problem, const std::vector<RowShift<compute_t<T>>>& shifts,
                                   const std::vector<Taps<compute_t<T>>>& taps, const T* x, const T* grad) {
  using A = compute_t<T>;
  const Loops<T>& loop = loops<T>();
  const int64_t pixels = problem.extent.pixels(), out_pixels = problem.extent.out_pixels();
  const MaskTable<A> masks(problem.extent, taps, 1, loop.masked_loads);
  std::vector<std::vector<SlopeTap<A>>> slopes;
  for (const auto& row : shifts) slopes.push_back(slope_taps(problem, row));

  const int64_t items = problem.batch * problem.rows;
  std::vector<double> partial(items * 3, 0.0);
  torch::stable::parallel_for(0, items, grain(4 * out_pixels), [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t n = item / problem.rows, k = item % problem.rows;
      const T* plane = x + (n * problem.channels + problem.source[k]) * pixels;
      for (int64_t at = 0; at < out_pixels; at += kChunk) {
        const int64_t stop = std::min(out_pixels, at + kChunk);
        for (const SlopeTap<A>& tap : slopes[k]) {
          const double sum = loop.correlate(grad + item * out_pixels, plane, tap.offset, problem.extent, masks.view(),
                                            at, stop);
          for (int axis = 0; axis < 3; ++axis) {
            // A slope of zero must not turn a NaN of another axis' tap into its own.
            if (tap.slope[axis] != A(0)) partial[item * 3 + axis] += sum * static_cast<double>(tap.slope[axis]);
          }
        }
      }
    }
  });
  std::vector<double> total(problem.rows * problem.dims, 0.0);
  for (int64_t item = 0; item < items; ++item) {
    for (int d = 0; d < problem.dims; ++d) {
      total[(item % problem.rows) * problem.dims + d] += partial[item * 3 + 3 - problem.dims + d];
    }
  }
  return total;
}

// Every channel is read by one row and no other.
bool is_permutation(const Problem& problem) {
  std::vector<bool> seen(problem.channels, false);
  for (const int64_t channel : problem.source) {
    if (seen[channel]) return false;
    seen[channel] = true;
  }
  return problem.rows == problem.channels;
}

// Block by block of rows. Where rows share channels, a thread owns an image and adds the blocks in their order. Nothing
// where it would take too much memory.
template <typename T>
std::optional<std::vector<double>> by_lanes(const Problem& problem, const std::vector<RowShift<compute_t<T>>>& shifts, const T* x,
                             const T* grad, T* grad_input, bool need_shift) {
  using A = compute_t<T>;
  const LaneLoops<T>& loop = *loops<T>().lanes;
  using Kind = typename LanePlan<A>::Kind;
  const int64_t* stride = problem.extent.stride;
  const bool gather = grad_input != nullptr && stride[0] == 1 && stride[1] == 1 && stride[2] == 1 &&
                      problem.extent.pixels() >= kFewestGathered;
  const LanePlan<A> plan(problem, shifts, loop.lanes, need_shift ? Kind::sample_and_slopes : Kind::sample);
  const LanePlan<A> back(problem, gather ? shifts : std::vector<RowShift<A>>(), loop.lanes, Kind::adjoint);
  if (!plan.fits() || !back.fits()) return std::nullopt;
  const int64_t lanes = loop.lanes, pixels = problem.extent.pixels(), out_pixels = problem.extent.out_pixels();
  const int64_t blocks = static_cast<int64_t>(plan.blocks().size());
  const bool last = problem.channels_last;
  const bool sum_rows = grad_input != nullptr && !is_permutation(problem);
  const int64_t image_size = problem.channels * pixels;
  const int64_t sums_size = sum_rows && !std::is_same_v<T, A> ? image_size : 0;
  const int64_t elements = (2 * pixels + out_pixels) * lanes + std::max(plan.scratch(), back.scratch()) + sums_size;
  std::vector<double> partial(need_shift ? problem.batch * blocks * 3 * lanes : 0, 0.0);

  const auto add_block = [&](int64_t n, int64_t b, A* memory, A* image_sums) {
    const LaneBlock<A>& block = plan.blocks()[b];
    A* image_tile = memory;
    A* result_tile = image_tile + pixels * lanes;
    A* grad_tile = result_tile + pixels * lanes;
    A* rest = grad_tile + out_pixels * lanes;
    const LaneImage channels{block.channels, block.count, pixels, problem.channels, last};
    const LaneImage rows{block.rows, block.count, out_pixels, problem.rows, last};
    const T* image = x + n * image_size;
    const T* grads = grad + n * problem.rows * out_pixels;
    LaneView<const A> from{need_shift ? image_tile : nullptr, lanes};
    if (need_shift && !lies_open(channels, image, loop.lanes, from)) loop.gather(image_tile, image, channels);
    LaneView<const A> upstream{grad_tile, lanes};
    if (!lies_open(rows, grads, loop.lanes, upstream)) loop.gather(grad_tile, grads, rows);
    LaneView<A> result{result_tile, lanes};
    const bool open = grad_input != nullptr && image_sums == nullptr &&
                      lies_open(channels, grad_input + n * image_size, loop.lanes, result);
    if (gather) {
      loop.sample(result.data, result.step, upstream.data, upstream.step, back.blocks()[b].taps, back.extent(), rest);
    }
    const bool scatter = grad_input != nullptr && !gather;
    if (scatter || need_shift) {
      loop.backward(scatter ? result.data : nullptr, result.step,
                    need_shift ? partial.data() + (n * blocks + b) * 3 * lanes : nullptr, upstream.data, upstream.step,
                    from.data, from.step, block.taps, problem.extent, rest);
    }
    if (image_sums != nullptr) {
      loop.scatter_add(image_sums, result_tile, channels);
    } else if (grad_input != nullptr && !open) {
      loop.scatter(grad_input + n * image_size, result_tile, channels);
    }
  };
  const int64_t work = (2 * pixels + out_pixels) * lanes;
  if (!sum_rows) {
    torch::stable::parallel_for(0, problem.batch * blocks, grain(work), [&](int64_t begin, int64_t end) {
      A* memory = static_cast<A*>(scratch.get(elements * static_cast<int64_t>(sizeof(A))));
      for (int64_t item = begin; item < end; ++item) add_block(item / blocks, item % blocks, memory, nullptr);
    });
  } else {
    torch::stable::parallel_for(0, problem.batch, grain(work * blocks), [&](int64_t begin, int64_t end) {
      A* memory = static_cast<A*>(scratch.get(elements * static_cast<int64_t>(sizeof(A))));
      for (int64_t n = begin; n < end; ++n) {
        T* result = grad_input + n * image_size;
        A* sums;
        if constexpr (std::is_same_v<T, A>) {
          sums = result;
        } else {
          sums = memory + elements - sums_size;
        }
        std::fill(sums, sums + image_size, A(0));
        for (int64_t b = 0; b < blocks; ++b) add_block(n, b, memory, sums);
        if constexpr (!std::is_same_v<T, A>) loops<T>().store(result, sums, image_size);
      }
    });
  }
  std::vector<double> total(problem.rows * problem.dims, 0.0);
  for (int64_t n = 0; need_shift && n < problem.batch; ++n) {
    for (int64_t k = 0; k < problem.rows; ++k) {
      const double* sums = partial.data() + (n * blocks + k / lanes) * 3 * lanes + k % lanes;
      for (int d = 0; d < problem.dims; ++d) total[k * problem.dims + d] += sums[(3 - problem.dims + d) * lanes];
    }
  }
  return total;
}

Tensor shift_like(const Tensor& shift, const std::vector<double>& values) {
  const std::vector<int64_t> shape{shift.size(0), shift.size(1)};
  Tensor result = torch::stable::empty(shape, shift.scalar_type(), std::nullopt, shift.device());
  for_type(shift.scalar_type(), [&](auto tag) {
    using T = decltype(tag);
    using A = compute_t<T>;
    const std::vector<A> rounded(values.begin(), values.end());
    loops<T>().store(static_cast<T*>(result.data_ptr()), rounded.data(), static_cast<int64_t>(rounded.size()));
  });
  return result;
}

Tensor nothing(const Tensor& like) {
  const std::vector<int64_t> shape{0};
  return torch::stable::empty(shape, like.scalar_type(), std::nullopt, like.device());
}

}  // namespace

std::tuple<Tensor, Tensor> active_shift_backward(Tensor grad, Tensor x, Tensor shift, std::optional<Tensor> source,
                                                 std::vector<int64_t> stride, std::vector<int64_t> delta,
                                                 bool need_input, bool need_shift) {
  const Problem problem = check(x, shift, source, stride, delta);
  check_grad(problem, grad, x);
  Tensor grad_input = nothing(x);
  Tensor grad_shift = nothing(shift);
  const std::vector<int64_t> shape(x.sizes().begin(), x.sizes().end());
  if (need_input) grad_input = empty_like(x, shape, problem.channels_last);
  for_type(x.scalar_type(), [&](auto tag) {
    using T = decltype(tag);
    const auto shifts = split_shifts<compute_t<T>>(problem, shift);
    const auto data = [](const Tensor& image) { return static_cast<T*>(image.data_ptr()); };
    std::optional<std::vector<double>> slopes;
    if (grad.numel() == 0) {
      if (need_input) torch::stable::zero_(grad_input);
      slopes.emplace(problem.rows * problem.dims, 0.0);
    } else if (wants_lanes(problem, kSmallPlane)) {
      const Tensor upstream = in_problem_format(problem, grad), input = in_problem_format(problem, x);
      T* result = need_input ? data(grad_input) : nullptr;
      slopes = by_lanes<T>(problem, shifts, data(input), data(upstream), result, need_shift);
    }
    if (!slopes.has_value()) {
      const auto taps = sample_taps(shifts);
      const Tensor upstream = row_major(grad), input = row_major(x);
      if (need_input) {
        const Tensor planes = problem.channels_last ? empty_like(x, shape, false) : grad_input;
        (keeps_size(problem) ? input_by_pixels<T> : input_by_taps<T>)(problem, taps, data(upstream), data(planes));
        grad_input = in_problem_format(problem, planes);
      }
      if (need_shift) slopes = shift_by_pixels<T>(problem, shifts, taps, data(input), data(upstream));
    }
    if (need_shift) grad_shift = shift_like(shift, *slopes);
  });
  return {grad_input, grad_shift};
}

}  // namespace asl
