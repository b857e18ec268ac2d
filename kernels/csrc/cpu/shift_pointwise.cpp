// The fused inference op: shift a panel of pixels into cache, multiply it by the 1x1 weight with the library's
// matrix product, then bias and ReLU while the result is warm.
#include "../ops.h"

#include <algorithm>

#include <torch/csrc/stable/ops.h>

#include "../problem.h"
#include "../rows.h"
#include "dispatch.h"
#include "gemm.h"
#include "loops.h"
#include "panel.h"
#include "pointwise_last.h"
#include "remember.h"

namespace asl {
namespace {

thread_local Scratch panel_scratch;
thread_local Scratch result_scratch;

// How the pixels of the batch are cut into panels: pieces of one image, or several whole images together.
struct Panels {
  int64_t pixels;  // of one image in one panel
  int64_t pieces;  // per image
  int64_t images;  // per panel
  int64_t count;
};

Panels cut(const Problem& problem, int64_t element_size, int64_t threads) {
  const int64_t all = problem.extent.out_pixels();
  const int64_t target = panel_pixels(problem.rows, element_size);
  Panels panels{all, 1, 1, 0};
  if (all > target) {
    panels.pieces = (all + target - 1) / target;
    panels.pixels = ((all + panels.pieces - 1) / panels.pieces + 15) / 16 * 16;
    panels.pieces = (all + panels.pixels - 1) / panels.pixels;
    panels.count = panels.pieces * problem.batch;
  } else {
    const int64_t together = std::max<int64_t>(target / std::max<int64_t>(all, 1), 1);
    const int64_t groups = std::max((problem.batch + together - 1) / together, std::min(threads, problem.batch));
    panels.images = (problem.batch + groups - 1) / groups;
    panels.count = (problem.batch + panels.images - 1) / panels.images;
  }
  return panels;
}

template <typename A>
struct Plan {
  Plan(const Problem& problem, const Tensor& shift, bool pixels)
      : taps(sample_taps(split_shifts<A>(problem, shift))), masks(problem.extent, taps, 0, pixels) {}
  size_t bytes() const { return taps.size() * sizeof(Taps<A>) + masks.bytes(); }

  std::vector<Taps<A>> taps;
  MaskTable<A> masks;
};

template <typename T>
void run(const Problem& problem, const Tensor& input, const Tensor& shift, const Tensor& weight, const T* bias,
         bool relu, const Tensor& output) {
  using A = compute_t<T>;
  const Loops<T>& loop = loops<T>();
  const int64_t pixels = problem.extent.pixels(), out_pixels = problem.extent.out_pixels();
  const int64_t rows = problem.rows, out_channels = weight.size(0);
  if (problem.batch * out_pixels * out_channels == 0) return;
  const std::shared_ptr<const Plan<A>> plan =
      remembered<Plan<A>>(problem, shift, [&] { return Plan<A>(problem, shift, loop.masked_loads); });
  const std::vector<Taps<A>>& taps = plan->taps;
  const MaskTable<A>& masks = plan->masks;
  const T* from = static_cast<const T*>(input.data_ptr());
  T* to = static_cast<T*>(output.data_ptr());
  const auto type = input.scalar_type();
  const int64_t threads = torch::stable::get_num_threads();
  const Panels panels = cut(problem, sizeof(T), threads);
  const Tensor left = as_tensor({weight.data_ptr(), out_channels, rows, rows, 1}, type);

  const auto fill = [&](T* panel, int64_t columns, int64_t n, int64_t images, int64_t first, int64_t last,
                        int64_t row_begin, int64_t row_end) {
    const auto plane_of = [&](int64_t k, int64_t i) {
      return from + ((n + i) * problem.channels + problem.source[k]) * pixels;
    };
    for (int64_t i = 0; i < images; ++i) {
      for (int64_t k = row_begin; k < row_end; ++k) {
        const T* ahead = k + 1 < row_end ? plane_of(k + 1, i) + first : nullptr;
        loop.sample(panel + k * columns + i * out_pixels, plane_of(k, i), taps[k], problem.extent, masks.view(), first,
                    last, ahead);
      }
    }
  };
  // target[C_out, columns] = weight . panel
  const auto product = [&](T* target, int64_t step, const T* panel, int64_t columns) {
    int64_t wide = columns;
    // One pixel past whole vectors (a 7x7 image) would cost the matrix product as much as sixteen.
    if (loop.multiply_column != nullptr && columns % 16 == 1 && columns > 16 && columns < 128) {
      wide = columns - 1;
      std::vector<T> column(rows);
      for (int64_t k = 0; k < rows; ++k) column[k] = panel[k * columns + wide];
      loop.multiply_column(target + wide, step, static_cast<const T*>(weight.data_ptr()), column.data(), out_channels,
                           rows);
    }
    multiply(as_tensor({target, out_channels, wide, step, 1}, type), left,
             as_tensor({const_cast<T*>(panel), rows, wide, columns, 1}, type));
  };
  const auto work = [&](int64_t item, bool alone) {
    const int64_t n = item / panels.pieces * panels.images;
    const int64_t images = std::min(panels.images, problem.batch - n);
    const int64_t first = item % panels.pieces * panels.pixels;
    const int64_t last = std::min(out_pixels, first + panels.pixels);
    const int64_t columns = images * (last - first);
    T* panel = static_cast<T*>(panel_scratch.get(rows * columns * static_cast<int64_t>(sizeof(T))));
    if (alone) {
      torch::stable::parallel_for(0, rows, grain(columns), [&](int64_t row_begin, int64_t row_end) {
        fill(panel, columns, n, images, first, last, row_begin, row_end);
      });
    } else {
      fill(panel, columns, n, images, first, last, 0, rows);
    }
    if (problem.channels_last) {
      // [pixels, C_out] is the output's own layout.
      T* target = to + (n * out_pixels + first) * out_channels;
      const Tensor turned = as_tensor({panel, columns, rows, 1, columns}, type);
      const Tensor by_row = as_tensor({weight.data_ptr(), rows, out_channels, 1, rows}, type);
      multiply(as_tensor({target, columns, out_channels, out_channels, 1}, type), turned, by_row);
      loop.epilogue_last(target, bias, relu, columns, out_channels);
    } else if (images == 1) {
      T* target = to + n * out_channels * out_pixels + first;
      product(target, out_pixels, panel, columns);
      if (bias != nullptr || relu) {
        loop.epilogue(target, out_pixels, target, out_pixels, bias, relu, out_channels, columns);
      }
    } else {
      T* result = static_cast<T*>(result_scratch.get(out_channels * columns * static_cast<int64_t>(sizeof(T))));
      product(result, columns, panel, columns);
      for (int64_t i = 0; i < images; ++i) {
        loop.epilogue(to + (n + i) * out_channels * out_pixels, out_pixels, result + i * out_pixels, columns, bias,
                      relu, out_channels, out_pixels);
      }
    }
  };
  if (panels.count < threads) {
    // Too few panels to share out: the threads share the rows and the library's product instead.
    for (int64_t item = 0; item < panels.count; ++item) work(item, true);
  } else {
    torch::stable::parallel_for(0, panels.count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t item = begin; item < end; ++item) work(item, false);
    });
  }
}

}  // namespace

Tensor shift_pointwise(Tensor x, Tensor shift, std::optional<Tensor> source, Tensor weight, std::optional<Tensor> bias,
                       std::vector<int64_t> stride, std::vector<int64_t> delta, bool relu) {
  const Problem problem = check(x, shift, source, stride, delta);
  check_pointwise(problem, x, weight, bias);
  const std::optional<Tensor> plain_bias = bias.has_value() ? std::optional<Tensor>(row_major(*bias)) : std::nullopt;
  const Tensor output = empty_output(problem, x, weight.size(0), problem.channels_last);
  if (pointwise_last(problem, x, shift, weight, plain_bias, relu, output)) return output;
  const Tensor input = row_major(x);
  const Tensor plain_weight = row_major(weight);
  for_type(x.scalar_type(), [&](auto tag) {
    using T = decltype(tag);
    const T* bias_data = plain_bias.has_value() ? static_cast<const T*>(plain_bias->data_ptr()) : nullptr;
    run<T>(problem, input, shift, plain_weight, bias_data, relu, output);
  });
  return output;
}

}  // namespace asl
