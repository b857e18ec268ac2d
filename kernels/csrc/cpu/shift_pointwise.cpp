// The fused inference op: shift a panel of pixels into cache, multiply it by the 1x1 weight with the library's
// matrix product, then bias and ReLU while the result is warm.
#include "../ops.h"

#include <algorithm>

#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/BFloat16.h>

#include "../problem.h"
#include "../rows.h"
#include "dispatch.h"
#include "gemm.h"
#include "loops.h"
#include "panel.h"
#include "pointwise_last.h"
#include "pointwise_planes.h"
#include "remember.h"
#include "tiles.h"

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

// Output pixels [first, last) of images [n, n + images).
struct Piece {
  int64_t n, images, first, last;
  int64_t columns() const { return images * (last - first); }
};

Panels cut(const Problem& problem, int64_t element_size) {
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
    const int64_t groups = (problem.batch + together - 1) / together;
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
  const std::shared_ptr<const Plan<A>> plan =
      remembered<Plan<A>>(problem, shift, [&] { return Plan<A>(problem, shift, loop.masked_loads); });
  const std::vector<Taps<A>>& taps = plan->taps;
  const MaskTable<A>& masks = plan->masks;
  const T* from = static_cast<const T*>(input.data_ptr());
  T* to = static_cast<T*>(output.data_ptr());
  const auto type = input.scalar_type();
  const Panels panels = cut(problem, sizeof(T));

  const auto fill = [&](T* panel, const Piece& piece, int64_t row_begin, int64_t row_end) {
    const auto plane_of = [&](int64_t k, int64_t i) {
      return from + ((piece.n + i) * problem.channels + problem.source[k]) * pixels;
    };
    for (int64_t i = 0; i < piece.images; ++i) {
      for (int64_t k = row_begin; k < row_end; ++k) {
        const T* ahead = k + 1 < row_end ? plane_of(k + 1, i) + piece.first : nullptr;
        loop.sample(panel + k * piece.columns() + i * out_pixels, plane_of(k, i), taps[k], problem.extent,
                    masks.view(), piece.first, piece.last, ahead);
      }
    }
  };
  // target[channels, columns] = weight[first : first + channels] . panel
  const auto product = [&](T* target, int64_t step, const T* panel, int64_t columns, int64_t first, int64_t channels) {
    T* part = static_cast<T*>(weight.data_ptr()) + first * rows;
    int64_t wide = columns;
    // One pixel past whole vectors (a 7x7 image) would cost the matrix product as much as sixteen.
    if (loop.multiply_column != nullptr && columns % 16 == 1 && columns > 16 && columns < 128) {
      wide = columns - 1;
      std::vector<T> column(rows);
      for (int64_t k = 0; k < rows; ++k) column[k] = panel[k * columns + wide];
      loop.multiply_column(target + wide, step, part, column.data(), channels, rows);
    }
    multiply(as_tensor({target, channels, wide, step, 1}, type), as_tensor({part, channels, rows, rows, 1}, type),
             as_tensor({const_cast<T*>(panel), rows, wide, columns, 1}, type));
  };
  // Output channels [begin, end) of a panel that has been filled.
  const auto finish = [&](const Piece& piece, T* panel, int64_t begin, int64_t end) {
    const int64_t columns = piece.columns(), channels = end - begin;
    const T* addend = bias != nullptr ? bias + begin : nullptr;
    T* image = to + (piece.n * out_channels + begin) * out_pixels;
    if (problem.channels_last) {
      // [pixels, C_out] is the output's own layout.
      T* target = to + (piece.n * out_pixels + piece.first) * out_channels;
      const Tensor turned = as_tensor({panel, columns, rows, 1, columns}, type);
      const Tensor by_row = as_tensor({weight.data_ptr(), rows, out_channels, 1, rows}, type);
      multiply(as_tensor({target, columns, out_channels, out_channels, 1}, type), turned, by_row);
      loop.epilogue_last(target, bias, relu, columns, out_channels);
    } else if (piece.images == 1) {
      T* target = image + piece.first;
      product(target, out_pixels, panel, columns, begin, channels);
      if (bias != nullptr || relu) {
        loop.epilogue(target, out_pixels, target, out_pixels, addend, relu, channels, columns);
      }
    } else {
      T* result = static_cast<T*>(result_scratch.get(channels * columns * static_cast<int64_t>(sizeof(T))));
      product(result, columns, panel, columns, begin, channels);
      for (int64_t i = 0; i < piece.images; ++i) {
        loop.epilogue(image + i * out_channels * out_pixels, out_pixels, result + i * out_pixels, columns, addend,
                      relu, channels, out_pixels);
      }
    }
  };
  const auto piece_of = [&](int64_t item) {
    const int64_t n = item / panels.pieces * panels.images, first = item % panels.pieces * panels.pixels;
    return Piece{n, std::min(panels.images, problem.batch - n), first, std::min(out_pixels, first + panels.pixels)};
  };
  const auto memory_for = [&](const Piece& piece) {
    return static_cast<T*>(panel_scratch.get(rows * piece.columns() * static_cast<int64_t>(sizeof(T))));
  };
  // The library's product always runs on one thread, on parts that do not depend on how many there are: its sums
  // would. A loop over one item would run outside of any parallel region, so that there are two at least.
  // In 16 bits it packs both sides for its own instructions, at every call: fewer and larger ones take half the time.
  constexpr bool kShort = sizeof(T) == 2;
  constexpr int64_t kFewPanels = kShort ? 4 : 16, kChannels = kShort ? 128 : 32, kMostParts = 8;
  if (panels.count >= kFewPanels) {
    torch::stable::parallel_for(0, panels.count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t item = begin; item < end; ++item) {
        const Piece piece = piece_of(item);
        T* panel = memory_for(piece);
        fill(panel, piece, 0, rows);
        finish(piece, panel, 0, out_channels);
      }
    });
    return;
  }
  const int64_t parts = problem.channels_last ? 1 : std::clamp<int64_t>(out_channels / kChannels, 1, kMostParts);
  for (int64_t item = 0; item < panels.count; ++item) {
    const Piece piece = piece_of(item);
    T* panel = memory_for(piece);
    torch::stable::parallel_for(0, rows, grain(piece.columns()), [&](int64_t begin, int64_t end) {
      fill(panel, piece, begin, end);
    });
    torch::stable::parallel_for(0, std::max<int64_t>(parts, 2), 1, [&](int64_t begin, int64_t end) {
      for (int64_t part = begin; part < std::min(end, parts); ++part) {
        finish(piece, panel, part * out_channels / parts, (part + 1) * out_channels / parts);
      }
    });
  }
}

// Adds the residual, and does the ReLU that had to wait for it; both tensors lie in the same order.
template <typename T>
void add_residual(T* data, const T* residual, bool relu, int64_t count) {
  torch::stable::parallel_for(0, count, kElementsPerThread, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const auto sum = data[i] + residual[i];
      data[i] = relu && sum < T(0) ? T(0) : T(sum);
    }
  });
}

void add_residual(BFloat16* data, const BFloat16* residual, bool relu, int64_t count) {
  using Library = torch::headeronly::BFloat16;
  add_residual(reinterpret_cast<Library*>(data), reinterpret_cast<const Library*>(residual), relu, count);
}

// Any layout, type and number of axes.
Tensor by_rows(const Problem& problem, const Tensor& x, const Tensor& shift, const Tensor& weight,
               const Addends& addends, const Tensor& output) {
  const Tensor input = row_major(x);
  const Tensor plain_weight = row_major(weight);
  const Tensor residual = addends.residual.has_value() ? in_problem_format(problem, *addends.residual) : x;
  for_type(x.scalar_type(), [&](auto tag) {
    using T = decltype(tag);
    const T* bias = addends.bias.has_value() ? static_cast<const T*>(addends.bias->data_ptr()) : nullptr;
    run<T>(problem, input, shift, plain_weight, bias, addends.relu && !addends.residual.has_value(), output);
    if (addends.residual.has_value()) {
      add_residual(static_cast<T*>(output.data_ptr()), static_cast<const T*>(residual.data_ptr()), addends.relu,
                   output.numel());
    }
  });
  return output;
}

Tensor unpacked(const Tensor& packed, int64_t out_channels) {
  const Tensor plain = row_major(packed);
  const int64_t rows = packed.size(1);
  const std::vector<int64_t> shape{out_channels, rows};
  Tensor weight = torch::stable::empty(shape, packed.scalar_type(), std::nullopt, packed.device());
  for_type(packed.scalar_type(), [&](auto tag) {
    using T = decltype(tag);
    const T* from = static_cast<const T*>(plain.data_ptr());
    T* to = static_cast<T*>(weight.data_ptr());
    for (int64_t c = 0; c < out_channels; ++c) {
      for (int64_t k = 0; k < rows; ++k) to[c * rows + k] = from[(c / kBlock * rows + k) * kBlock + c % kBlock];
    }
  });
  return weight;
}

std::optional<Tensor> dense(const std::optional<Tensor>& bias) {
  return bias.has_value() ? std::optional<Tensor>(row_major(*bias)) : std::nullopt;
}

}  // namespace

Tensor shift_pointwise(Tensor x, Tensor shift, std::optional<Tensor> source, Tensor weight, std::optional<Tensor> bias,
                       std::vector<int64_t> stride, std::vector<int64_t> delta, bool relu,
                       std::optional<Tensor> residual) {
  const Problem problem = check(x, shift, source, stride, delta);
  check_pointwise(problem, x, weight, bias, residual);
  const std::optional<Tensor> plain_bias = dense(bias);
  const Addends addends{plain_bias, residual, relu};
  const Tensor output = empty_output(problem, x, weight.size(0), problem.channels_last);
  if (output.numel() == 0) return output;
  const PointwiseWeight plain{&weight, nullptr, weight.size(0)};
  if (pointwise_last(problem, x, shift, plain, addends, output)) return output;
  if (pointwise_planes(problem, x, shift, plain, addends, output)) return output;
  return by_rows(problem, x, shift, weight, addends, output);
}

Tensor shift_pointwise_packed(Tensor x, Tensor shift, std::optional<Tensor> source, Tensor packed,
                              int64_t out_channels, std::optional<Tensor> bias, std::vector<int64_t> stride,
                              std::vector<int64_t> delta, bool relu, std::optional<Tensor> residual) {
  const Problem problem = check(x, shift, source, stride, delta);
  check_packed(problem, x, packed, out_channels, bias, residual);
  const std::optional<Tensor> plain_bias = dense(bias);
  const Addends addends{plain_bias, residual, relu};
  const Tensor output = empty_output(problem, x, out_channels, problem.channels_last);
  if (output.numel() == 0) return output;
  const PointwiseWeight weight{nullptr, &packed, out_channels};
  if (pointwise_last(problem, x, shift, weight, addends, output)) return output;
  if (pointwise_planes(problem, x, shift, weight, addends, output)) return output;
  return by_rows(problem, x, shift, unpacked(packed, out_channels), addends, output);
}

}  // namespace asl
