// The fused op in channels_last: a panel of shifted pixels that stays in cache, then the library's matrix product
// straight into the output, which has the product's own layout.
#include "pointwise_last.h"

#include <algorithm>

#include <torch/csrc/stable/ops.h>

#include "../rows.h"
#include "blocks.h"
#include "gemm.h"
#include "loops.h"
#include "panel.h"
#include "remember.h"

namespace asl {
namespace {

using torch::headeronly::ScalarType;

thread_local Scratch panel_scratch;
thread_local Scratch gather_scratch;

// False where the rows' offsets along the axis lie too far apart.
bool gather_axis(AxisTaps& taps, const RowShift<float>* rows, int64_t count, int axis, const Extent& extent) {
  // Offsets in [lowest, beyond) reach the image from some output pixel.
  const int64_t lowest = 1 - extent.out[axis], beyond = extent.size[axis];
  int64_t first = beyond, last = lowest - 1;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t low = rows[i].base[axis], high = low + (rows[i].fraction[axis] != 0.0f);
    const bool reads = high >= lowest && low < beyond;
    first = reads ? std::min(first, low) : first;
    last = reads ? std::max(last, high) : last;
  }
  first = std::max(first, lowest);
  last = std::min(last, beyond - 1);
  taps = AxisTaps{};
  if (first > last) return true;
  if (last - first >= kMostTaps) return false;
  taps.first = first;
  taps.count = last - first + 1;
  const auto put = [&](int64_t tap, int64_t i, float weight) {
    // No branch on the shift: whole and half pixels alternate without a pattern. What is not wanted goes to the spare.
    const int64_t to = weight != 0.0f && tap >= 0 && tap < taps.count ? tap : kMostTaps;
    taps.weight[to][i] = weight;
  };
  for (int64_t i = 0; i < count; ++i) {
    put(rows[i].base[axis] - first, i, 1.0f - rows[i].fraction[axis]);
    put(rows[i].base[axis] - first + 1, i, rows[i].fraction[axis]);
  }
  return true;
}

struct Plan {
  bool fits;
  std::vector<ChannelBlock> blocks;
  size_t bytes() const { return blocks.size() * sizeof(ChannelBlock); }
};

Plan make_plan(const Problem& problem, const std::vector<RowShift<float>>& shifts) {
  Plan plan{true, std::vector<ChannelBlock>((problem.rows + kBlock - 1) / kBlock)};
  for (size_t b = 0; b < plan.blocks.size(); ++b) {
    const int64_t first = static_cast<int64_t>(b) * kBlock, count = std::min(kBlock, problem.rows - first);
    plan.fits = plan.fits && gather_axis(plan.blocks[b].y, shifts.data() + first, count, 1, problem.extent) &&
                gather_axis(plan.blocks[b].x, shifts.data() + first, count, 2, problem.extent);
  }
  return plan;
}

bool consecutive_blocks(const Problem& problem) {
  for (int64_t k = 1; k < problem.rows; ++k) {
    if (k % kBlock != 0 && problem.source[k] != problem.source[k - 1] + 1) return false;
  }
  return true;
}

bool applies(const Problem& problem, const Tensor& x) {
  const Extent& extent = problem.extent;
  return problem.channels_last && x.scalar_type() == ScalarType::Float && problem.dims == 2 && problem.rows > 0 &&
         extent.stride[1] == 1 && extent.stride[2] == 1;
}

// The image rows that output rows [first, last) read, by all blocks together.
struct Band {
  int64_t first, last;
};
Band band_of(const std::vector<ChannelBlock>& blocks, const Extent& extent, int64_t first, int64_t last) {
  Band band{extent.size[1], 0};
  for (const ChannelBlock& block : blocks) {
    if (block.y.count == 0) continue;
    band.first = std::min(band.first, first + block.y.first);
    band.last = std::max(band.last, last - 1 + block.y.first + block.y.count);
  }
  band.first = std::max<int64_t>(band.first, 0);
  band.last = std::max(band.first, std::min(band.last, extent.size[1]));
  return band;
}

}  // namespace

bool pointwise_last(const Problem& problem, const Tensor& x, const Tensor& shift, const Tensor& weight,
                    const std::optional<Tensor>& bias, bool relu, const Tensor& output) {
  if (!applies(problem, x)) return false;
  const int64_t rows = problem.rows, out_channels = weight.size(0), count = (rows + kBlock - 1) / kBlock;
  const std::shared_ptr<const Plan> plan =
      remembered<Plan>(problem, shift, [&] { return make_plan(problem, split_shifts<float>(problem, shift)); });
  if (!plan->fits) return false;
  const std::vector<ChannelBlock>& blocks = plan->blocks;
  const Extent& extent = problem.extent;
  const int64_t pixels = extent.pixels(), out_pixels = extent.out_pixels(), all = problem.batch * out_pixels;
  if (all * out_channels == 0) return true;

  const bool turned = weight.stride(0) == 1 && weight.stride(1) == out_channels;
  const Tensor plain = turned ? weight : row_major(weight);
  const Tensor right =
      as_tensor({plain.data_ptr(), rows, out_channels, turned ? out_channels : 1, turned ? 1 : rows}, x.scalar_type());
  const float* from = static_cast<const float*>(x.data_ptr());
  float* to = static_cast<float*>(output.data_ptr());
  const float* bias_data = bias.has_value() ? static_cast<const float*>(bias->data_ptr()) : nullptr;
  const SampleBlock sample = sample_block();
  const Loops<float>& loop = loops<float>();
  const int64_t step = count * kBlock;

  const bool in_place = consecutive_blocks(problem);
  const int64_t* source = problem.source.data();

  // Copies every row's channel, for the image rows under output pixels [start, stop), so that blocks lie together;
  // returns where the image would begin if it were copied as a whole.
  const auto gather = [&](const float* image, int64_t start, int64_t stop, int64_t begin, int64_t end) {
    const int64_t width = extent.size[2];
    const Band band = band_of(blocks, extent, start / extent.out[2], (stop - 1) / extent.out[2] + 1);
    const int64_t first = band.first * width, last = band.last * width;
    float* copy =
        static_cast<float*>(gather_scratch.get((last - first + 1) * step * static_cast<int64_t>(sizeof(float))));
    const int64_t row_begin = begin * kBlock, row_end = std::min(rows, end * kBlock);
    for (int64_t pixel = first; pixel < last; ++pixel) {
      const float* src = image + pixel * problem.channels;
      float* dst = copy + (pixel - first) * step;
      for (int64_t k = row_begin; k < row_end; ++k) dst[k] = src[source[k]];
    }
    // As an integer: the pointer itself may lie before the copy, only pixels of the band are read through it.
    return reinterpret_cast<const float*>(reinterpret_cast<intptr_t>(copy) -
                                          first * step * static_cast<int64_t>(sizeof(float)));
  };
  // Pixels [first, last) of the whole batch, blocks [begin, end).
  const auto fill = [&](float* panel, int64_t first, int64_t last, int64_t begin, int64_t end) {
    for (int64_t at = first; at < last;) {
      const int64_t n = at / out_pixels, start = at - n * out_pixels;
      const int64_t stop = std::min(out_pixels, start + last - at);
      const float* image = from + n * pixels * problem.channels;
      if (!in_place) image = gather(image, start, stop, begin, end);
      for (int64_t b = begin; b < end; ++b) {
        const int64_t channel = in_place ? source[b * kBlock] : b * kBlock;
        sample(panel + (at - first) * step + b * kBlock, step, image + channel, in_place ? problem.channels : step,
               std::min(kBlock, rows - b * kBlock), blocks[b], extent, start, stop);
      }
      at += stop - start;
    }
  };
  const auto work = [&](int64_t first, int64_t last, bool alone) {
    float* panel = static_cast<float*>(panel_scratch.get((last - first) * step * static_cast<int64_t>(sizeof(float))));
    if (alone) {
      torch::stable::parallel_for(
          0, count, 1, [&](int64_t begin, int64_t end) { fill(panel, first, last, begin, end); });
    } else {
      fill(panel, first, last, 0, count);
    }
    float* target = to + first * out_channels;
    multiply(as_tensor({target, last - first, out_channels, out_channels, 1}, x.scalar_type()),
             as_tensor({panel, last - first, rows, step, 1}, x.scalar_type()), right);
    if (bias_data != nullptr || relu) loop.epilogue_last(target, bias_data, relu, last - first, out_channels);
  };
  const int64_t target = panel_pixels(rows, sizeof(float));
  const int64_t panels = (all + target - 1) / target;
  const int64_t each = (all + panels - 1) / panels;
  if (panels < static_cast<int64_t>(torch::stable::get_num_threads())) {
    // Too few panels to share out: the threads share the blocks and the library's product instead.
    for (int64_t p = 0; p < panels; ++p) work(p * each, std::min(all, (p + 1) * each), true);
  } else {
    torch::stable::parallel_for(0, panels, 1, [&](int64_t begin, int64_t end) {
      for (int64_t p = begin; p < end; ++p) work(p * each, std::min(all, (p + 1) * each), false);
    });
  }
  return true;
}

}  // namespace asl
