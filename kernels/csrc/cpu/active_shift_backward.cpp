// The backward op. Both gradients sum in an order that does not depend on the number of threads.
#include "../ops.h"

#include <algorithm>

#include <torch/csrc/stable/ops.h>

#include "../problem.h"
#include "../rows.h"
#include "dispatch.h"
#include "loops.h"

namespace asl {
namespace {

using torch::headeronly::ScalarType;

// A thread owns a source plane and adds every row that reads it, in the order of the rows.
template <typename T>
void input_gradient(const Problem& problem, const std::vector<Taps<compute_t<T>>>& taps, const T* grad, T* result) {
  using A = compute_t<T>;
  const Loops<T>& loop = loops<T>();
  const int64_t pixels = problem.extent.pixels(), out_pixels = problem.extent.out_pixels();
  std::vector<std::vector<int64_t>> readers(problem.channels);
  for (int64_t k = 0; k < problem.rows; ++k) readers[problem.source[k]].push_back(k);

  const bool gather = problem.extent.stride[0] == 1 && problem.extent.stride[1] == 1 && problem.extent.stride[2] == 1;
  Extent adjoint = problem.extent;
  std::copy(problem.extent.out, problem.extent.out + 3, adjoint.size);
  std::copy(problem.extent.size, problem.extent.size + 3, adjoint.out);
  std::vector<Taps<A>> back;
  if (gather) {
    for (const auto& row : taps) back.push_back(negated(row));
  }
  const MaskTable<A> masks(adjoint, back, 0, loop.masked_loads);

  const int64_t work = pixels * (problem.rows / std::max<int64_t>(problem.channels, 1) + 1);
  torch::stable::parallel_for(0, problem.batch * problem.channels, grain(work), [&](int64_t begin, int64_t end) {
    std::vector<A> sums(gather ? std::min(pixels, kChunk) : pixels);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t n = item / problem.channels;
      const std::vector<int64_t>& rows = readers[item % problem.channels];
      const T* grads = grad + n * problem.rows * out_pixels;
      T* plane = result + item * pixels;
      if (!gather) {
        std::fill(sums.begin(), sums.end(), A(0));
        for (const int64_t k : rows) loop.scatter_add(sums.data(), grads + k * out_pixels, taps[k], problem.extent);
        loop.store(plane, sums.data(), pixels);
        continue;
      }
      for (int64_t at = 0; at < pixels; at += kChunk) {
        const int64_t stop = std::min(pixels, at + kChunk);
        if (rows.size() == 1) {
          loop.sample(plane + at, grads + rows[0] * out_pixels, back[rows[0]], adjoint, masks.view(), at, stop,
                      grads + rows[0] * out_pixels + stop);
          continue;
        }
        std::fill(sums.begin(), sums.end(), A(0));
        for (size_t i = 0; i < rows.size(); ++i) {
          const T* next = grads + rows[i + 1 < rows.size() ? i + 1 : i] * out_pixels + at;
          loop.sample_add(sums.data(), grads + rows[i] * out_pixels, back[rows[i]], adjoint, masks.view(), at, stop,
                          next);
        }
        loop.store(plane + at, sums.data(), stop - at);
      }
    }
  });
}

// One partial sum per image and row, then the images in order.
template <typename T>
std::vector<double> shift_gradient(const Problem& problem, const std::vector<RowShift<compute_t<T>>>& shifts,
                                   const std::vector<Taps<compute_t<T>>>& taps, const T* x, const T* grad) {
  using A = compute_t<T>;
  const Loops<T>& loop = loops<T>();
  const int64_t pixels = problem.extent.pixels(), out_pixels = problem.extent.out_pixels();
  const MaskTable<A> masks(problem.extent, taps, 1, loop.masked_loads);
  std::vector<std::vector<SlopeTap<A>>> slopes;
  for (const auto& row : shifts) slopes.push_back(slope_taps(problem, row));

  const int64_t items = problem.batch * problem.rows;
  std::vector<double> partial(items * 3, 0.0);
  torch::stable::parallel_for(0, pixels == 0 ? 0 : items, grain(4 * out_pixels), [&](int64_t begin, int64_t end) {
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
  const Tensor upstream = row_major(grad);
  Tensor grad_input = nothing(x);
  Tensor grad_shift = nothing(shift);
  for_type(x.scalar_type(), [&](auto tag) {
    using T = decltype(tag);
    using A = compute_t<T>;
    const std::vector<RowShift<A>> shifts = split_shifts<A>(problem, shift);
    const std::vector<Taps<A>> taps = sample_taps(shifts);
    const T* grads = static_cast<const T*>(upstream.data_ptr());
    if (need_input) {
      std::vector<int64_t> shape(x.sizes().begin(), x.sizes().end());
      Tensor plain = torch::stable::empty(shape, x.scalar_type(), std::nullopt, x.device());
      input_gradient<T>(problem, taps, grads, static_cast<T*>(plain.data_ptr()));
      grad_input = to_problem_format(problem, plain);
    }
    if (need_shift) {
      const Tensor input = row_major(x);
      grad_shift = shift_like(
          shift, shift_gradient<T>(problem, shifts, taps, static_cast<const T*>(input.data_ptr()), grads));
    }
  });
  return {grad_input, grad_shift};
}

}  // namespace asl
