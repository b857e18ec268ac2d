// The fused op on contiguous images: bands of whole image rows, so that the panel of a band stays in cache between
// sampling and product.
#include "pointwise_planes.h"

#include <algorithm>

#include <torch/csrc/stable/ops.h>

#include "panel.h"
#include "plane_plan.h"
#include "remember.h"

namespace asl {
namespace {

using torch::headeronly::ScalarType;

thread_local Scratch panel_scratch;

// More rows than these fill the cache with so few pixels that the library's product, which packs them, is faster.
constexpr int64_t kMostRows = 320;

bool applies(const Problem& problem, const Tensor& x) {
  const Extent& extent = problem.extent;
  return plane_tiles() != nullptr && !problem.channels_last && x.scalar_type() == ScalarType::Float &&
         problem.dims == 2 && problem.rows > 0 && problem.rows <= kMostRows && extent.stride[1] == 1 &&
         extent.stride[2] == 1;
}

}  // namespace

bool pointwise_planes(const Problem& problem, const Tensor& x, const Tensor& shift, const PointwiseWeight& weight,
                      const Addends& addends, const Tensor& output) {
  if (!applies(problem, x)) return false;
  const Extent& extent = problem.extent;
  const int64_t out_channels = weight.out_channels, out_pixels = extent.out_pixels();
  if (problem.batch * out_pixels * out_channels == 0) return true;
  const std::shared_ptr<const PlanePlan> plan =
      remembered<PlanePlan>(problem, shift, [&] { return plan_planes(problem, split_shifts<float>(problem, shift)); });
  const Tensor image = row_major(x), matrix = row_major(weight.packed != nullptr ? *weight.packed : *weight.plain);
  const Tensor residual = addends.residual.has_value() ? row_major(*addends.residual) : x;
  const PlaneTiles& loops = *plane_tiles();
  const PlaneSize size{extent.size[1], extent.size[2], extent.out[1], extent.out[2]};

  PlaneProduct product{};
  product.rows = problem.rows;
  product.weight = static_cast<const float*>(matrix.data_ptr());
  product.packed = weight.packed != nullptr;
  product.bias = addends.bias.has_value() ? static_cast<const float*>(addends.bias->data_ptr()) : nullptr;
  product.relu = addends.relu;
  product.output_step = out_pixels;

  const int64_t band = band_height(problem, problem.rows, out_channels), bands = (size.out_height + band - 1) / band;
  const auto run = [&](int64_t item) {
    const int64_t n = item / bands, y0 = item % bands * band, y1 = std::min(size.out_height, y0 + band);
    PlaneProduct job = product;
    job.pixels = (y1 - y0) * size.out_width;
    job.panel_step = panel_step(job.pixels);
    float* panel = static_cast<float*>(
        panel_scratch.get(problem.rows * job.panel_step * static_cast<int64_t>(sizeof(float))));
    job.panel = panel;
    const float* planes = static_cast<const float*>(image.data_ptr()) + n * problem.channels * extent.pixels();
    for (int64_t k = 0; k < problem.rows; ++k) {
      const PlaneRow& row = plan->rows[k];
      const PlaneRow& next = plan->rows[std::min(k + 1, problem.rows - 1)];
      loops.sample({planes + row.channel * extent.pixels(), &row, size, y0, y1, panel + k * job.panel_step,
                    planes + next.channel * extent.pixels()});
    }
    const int64_t offset = n * out_channels * out_pixels + y0 * size.out_width;
    job.output = static_cast<float*>(output.data_ptr()) + offset;
    job.residual = addends.residual.has_value() ? static_cast<const float*>(residual.data_ptr()) + offset : nullptr;
    loops.multiply(job, 0, out_channels);
  };
  torch::stable::parallel_for(0, problem.batch * bands, 1, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) run(item);
  });
  return true;
}

}  // namespace asl
