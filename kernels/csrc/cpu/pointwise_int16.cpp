// The fused op with 16-bit weights: every image's samples are rounded to integers of its own scale, so that a
// multiply-add instruction does twice as many of them. Sums are exact, and cannot pass 32 bits.
#include "../ops.h"

#include <algorithm>
#include <cstring>

#include <torch/csrc/stable/ops.h>

#include "panel.h"
#include "plane_plan.h"
#include "remember.h"

namespace asl {
namespace {

using torch::headeronly::ScalarType;

thread_local Scratch panel_scratch;

// A panel of pairs has two rows where one of floats has one (see pointwise_planes.cpp).
constexpr int64_t kMostRows = 2048;
constexpr uint32_t kInfinity = 0x7f800000;
// Samples reach no further than this, even where rounding lifts them a little.
constexpr int64_t kMostSample = 32000;

struct Weight {
  Tensor packed;  // [C_out / 8 rounded up, pairs, 8, 2] int16
  Tensor scale;   // [C_out] float
  int64_t out_channels, pairs;

  const int32_t* data() const { return static_cast<const int32_t*>(packed.data_ptr()); }
};

Weight check_weight(const Problem& problem, const Tensor& x, const Tensor& weight, const Tensor& scale) {
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float, "shift pointwise int16: x must be float32");
  STD_TORCH_CHECK(scale.dim() == 1 && scale.scalar_type() == ScalarType::Float && scale.device() == x.device(),
                  "shift pointwise int16: scale must be [C_out] float32 on x's device");
  const int64_t blocks = (scale.size(0) + kPairChannels - 1) / kPairChannels, pairs = (problem.rows + 1) / 2;
  STD_TORCH_CHECK(weight.dim() == 4 && weight.size(0) == blocks && weight.size(1) == pairs &&
                      weight.size(2) == kPairChannels && weight.size(3) == 2 &&
                      weight.scalar_type() == ScalarType::Short && weight.device() == x.device(),
                  "shift pointwise int16: weight must be [", blocks, ", ", pairs, ", ", kPairChannels,
                  ", 2] int16 on x's device");
  return {row_major(weight), row_major(scale), scale.size(0), pairs};
}

// [C_out, rows] in float.
Tensor unpacked(const Problem& problem, const Tensor& x, const Weight& weight) {
  const std::vector<int64_t> shape{weight.out_channels, problem.rows};
  Tensor plain = torch::stable::empty(shape, x.scalar_type(), std::nullopt, x.device());
  const int16_t* from = static_cast<const int16_t*>(weight.packed.data_ptr());
  const float* scale = static_cast<const float*>(weight.scale.data_ptr());
  float* to = static_cast<float*>(plain.data_ptr());
  for (int64_t c = 0; c < weight.out_channels; ++c) {
    for (int64_t k = 0; k < problem.rows; ++k) {
      const int64_t pair = (c / kPairChannels * weight.pairs + k / 2) * kPairChannels + c % kPairChannels;
      to[c * problem.rows + k] = scale[c] * static_cast<float>(from[pair * 2 + k % 2]);
    }
  }
  return plain;
}

// The largest magnitude of each image; empty where one has a value that is not finite, or so small or large that its
// scale would not be a normal number.
std::vector<float> ranges(const Problem& problem, const float* image) {
  const PairTiles& loops = *pair_tiles();
  const int64_t pixels = problem.extent.pixels();
  // An image without pixels may claim any number of channels.
  if (pixels == 0) return std::vector<float>(problem.batch);
  const int64_t planes = problem.batch * problem.channels;
  std::vector<uint32_t> bits(planes);
  torch::stable::parallel_for(0, planes, 1 + (1 << 16) / (pixels + 1), [&](int64_t begin, int64_t end) {
    for (int64_t plane = begin; plane < end; ++plane) bits[plane] = loops.largest(image + plane * pixels, pixels);
  });
  std::vector<float> found(problem.batch);
  for (int64_t n = 0; n < problem.batch; ++n) {
    const auto first = bits.begin() + n * problem.channels;
    const uint32_t most = problem.channels > 0 ? *std::max_element(first, first + problem.channels) : 0;
    std::memcpy(&found[n], &most, sizeof most);
    if (!(found[n] < 1e30f) || (found[n] != 0.0f && found[n] < 1e-30f)) return {};
  }
  return found;
}

bool applies(const Problem& problem) {
  return pair_tiles() != nullptr && !problem.channels_last && problem.dims == 2 && problem.rows > 0 &&
         problem.rows <= kMostRows && problem.extent.stride[1] == 1 && problem.extent.stride[2] == 1;
}

bool in_pairs(const Problem& problem, const Tensor& x, const Tensor& shift, const Weight& weight,
              const std::optional<Tensor>& bias, bool relu, const std::optional<Tensor>& residual,
              const Tensor& output) {
  const Extent& extent = problem.extent;
  const int64_t out_pixels = extent.out_pixels(), pixels = extent.pixels();
  if (problem.batch * out_pixels * weight.out_channels == 0) return true;
  const Tensor image = row_major(x), addend = residual.has_value() ? row_major(*residual) : x;
  const std::vector<float> range = ranges(problem, static_cast<const float*>(image.data_ptr()));
  if (range.empty()) return false;
  const std::shared_ptr<const PlanePlan> plan =
      remembered<PlanePlan>(problem, shift, [&] { return plan_planes(problem, split_shifts<float>(problem, shift)); });
  const PlaneTiles& planes = *plane_tiles();
  const PairTiles& loops = *pair_tiles();
  const float* scale = static_cast<const float*>(weight.scale.data_ptr());
  // A weight of zero times infinity is a NaN: float kernels know.
  if (loops.largest(scale, weight.out_channels) >= kInfinity) return false;
  const PlaneSize size{extent.size[1], extent.size[2], extent.out[1], extent.out[2]};
  const int64_t sum = std::max<int64_t>(loops.largest_sum(weight.data(), weight.pairs, weight.out_channels), 1);
  const float most = static_cast<float>(std::clamp<int64_t>(INT32_MAX / sum - 1, 1, kMostSample));

  PairProduct product{};
  product.pairs = weight.pairs;
  product.weight = weight.data();
  product.scale = scale;
  product.bias = bias.has_value() ? static_cast<const float*>(bias->data_ptr()) : nullptr;
  product.relu = relu;
  product.output_step = out_pixels;

  const int64_t band = band_height(problem, weight.pairs, weight.out_channels);
  const int64_t bands = (size.out_height + band - 1) / band;
  const auto run = [&](int64_t item) {
    const int64_t n = item / bands, y0 = item % bands * band, y1 = std::min(size.out_height, y0 + band);
    const float to_whole = range[n] > 0.0f ? most / range[n] : 0.0f;
    PairProduct job = product;
    job.step = range[n] / most;
    job.pixels = (y1 - y0) * size.out_width;
    job.panel_step = panel_step(job.pixels);
    int32_t* panel = static_cast<int32_t*>(
        panel_scratch.get(weight.pairs * job.panel_step * static_cast<int64_t>(sizeof(int32_t))));
    job.panel = panel;
    const float* from = static_cast<const float*>(image.data_ptr()) + n * problem.channels * pixels;
    for (int64_t k = 0; k < problem.rows; ++k) {
      const PlaneRow& row = plan->rows[k];
      const PlaneRow& next = plan->rows[std::min(k + 1, problem.rows - 1)];
      planes.sample({from + row.channel * pixels, &row, size, y0, y1, panel + k / 2 * job.panel_step,
                     from + next.channel * pixels, k % 2 == 0 ? PlaneJob::Into::low : PlaneJob::Into::high, to_whole});
    }
    const int64_t offset = n * weight.out_channels * out_pixels + y0 * size.out_width;
    job.output = static_cast<float*>(output.data_ptr()) + offset;
    job.residual = residual.has_value() ? static_cast<const float*>(addend.data_ptr()) + offset : nullptr;
    loops.multiply(job, weight.out_channels);
  };
  torch::stable::parallel_for(0, problem.batch * bands, 1, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) run(item);
  });
  return true;
}

}  // namespace

Tensor shift_pointwise_int16(Tensor x, Tensor shift, std::optional<Tensor> source, Tensor weight, Tensor scale,
                             std::optional<Tensor> bias, std::vector<int64_t> stride, std::vector<int64_t> delta,
                             bool relu, std::optional<Tensor> residual) {
  const Problem problem = check(x, shift, source, stride, delta);
  const Weight found = check_weight(problem, x, weight, scale);
  if (applies(problem)) {
    const std::optional<Tensor> plain = bias.has_value() ? std::optional<Tensor>(row_major(*bias)) : std::nullopt;
    check_addends(problem, x, found.out_channels, plain, residual);
    const Tensor output = empty_output(problem, x, found.out_channels, false);
    if (in_pairs(problem, x, shift, found, plain, relu, residual, output)) return output;
  }
  return shift_pointwise(x, shift, source, unpacked(problem, x, found), bias, stride, delta, relu, residual);
}

}  // namespace asl
