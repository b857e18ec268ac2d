// Which taps and which channels each sixteen rows of a layer read.
#include "channel_blocks.h"

#include <algorithm>

namespace asl {
namespace {

// False where the rows' offsets along the axis lie too far apart.
bool gather_axis(AxisTaps& taps, const RowShift<float>* rows, int64_t count, int axis, const Extent& extent) {
  // Offsets in [lowest, beyond) reach the image from some output pixel.
  const int64_t lowest = -(extent.out[axis] - 1) * extent.stride[axis], beyond = extent.size[axis];
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

void find_windows(ChannelBlock& block, const int64_t* source, int64_t channels) {
  bool consecutive = true;
  for (int64_t i = 0; i < kBlock; ++i) {
    block.source[i] = static_cast<int32_t>(source[i < block.present ? i : 0]);
    consecutive = consecutive && (i >= block.present || source[i] == source[0] + i);
  }
  block.channel = source[0];
  block.windows = 0;
  for (uint32_t open = (1u << kBlock) - 1u; open != 0;) {
    int32_t first = INT32_MAX;
    for (int64_t i = 0; i < kBlock; ++i) {
      if (open >> i & 1u) first = std::min(first, block.source[i]);
    }
    // A window that would stick out of the pixel begins earlier instead.
    first = static_cast<int32_t>(std::max<int64_t>(0, std::min<int64_t>(first, channels - kBlock)));
    uint32_t served = 0;
    for (int64_t i = 0; i < kBlock; ++i) {
      if ((open >> i & 1u) && block.source[i] >= first && block.source[i] < first + kBlock) {
        served |= 1u << i;
        block.index[i] = block.source[i] - first;
      }
    }
    block.window[block.windows] = first;
    block.window_rows[block.windows++] = static_cast<uint16_t>(served);
    open &= ~served;
  }
  // Windows are read whole, which a pixel of fewer channels does not allow.
  const bool few = block.windows <= 2 && channels >= kBlock;
  const Access windows = !few ? Access::any : block.windows == 1 ? Access::one_window : Access::two_windows;
  block.access = consecutive ? Access::consecutive : windows;
}

}  // namespace

BlockPlan plan_blocks(const Problem& problem, const std::vector<RowShift<float>>& shifts) {
  BlockPlan plan{true, std::vector<ChannelBlock>((problem.rows + kBlock - 1) / kBlock), 0};
  for (size_t b = 0; b < plan.blocks.size(); ++b) {
    ChannelBlock& block = plan.blocks[b];
    const int64_t first = static_cast<int64_t>(b) * kBlock;
    block.present = std::min(kBlock, problem.rows - first);
    plan.fits = plan.fits && gather_axis(block.y, shifts.data() + first, block.present, 1, problem.extent) &&
                gather_axis(block.x, shifts.data() + first, block.present, 2, problem.extent);
    find_windows(block, problem.source.data() + first, problem.channels);
    plan.lowest_row = std::max(plan.lowest_row, block.y.first + block.y.count - 1);
  }
  const auto taps_alike = [](const AxisTaps& a, const AxisTaps& b) { return a.first == b.first && a.count == b.count; };
  for (size_t b = plan.blocks.size(); b-- > 1;) {
    ChannelBlock& block = plan.blocks[b - 1];
    const ChannelBlock& next = plan.blocks[b];
    if (block.access == next.access && next.present == kBlock && taps_alike(block.y, next.y) && taps_alike(block.x, next.x)) block.alike = next.alike + 1;
  }
  return plan;
}

void pack_weight(float* packed, const float* weight, int64_t row_step, int64_t column_step, int64_t out_channels,
                 int64_t rows) {
  for (int64_t first = 0; first < out_channels; first += kBlock, packed += rows * kBlock) {
    const int64_t present = std::min(kBlock, out_channels - first);
    if (present < kBlock) std::fill(packed, packed + rows * kBlock, 0.0f);
    for (int64_t k = 0; k < rows; ++k) {
      const float* from = weight + first * row_step + k * column_step;
      for (int64_t i = 0; i < present; ++i) packed[k * kBlock + i] = from[i * row_step];
    }
  }
}

}  // namespace asl
