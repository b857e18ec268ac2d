// How the fused op on contiguous images is cut into bands of whole image rows, and where its rows read.
#pragma once

#include <algorithm>
#include <vector>

#include <torch/csrc/stable/ops.h>

#include "../problem.h"
#include "../rows.h"
#include "plane_tiles.h"

namespace asl {

struct PlanePlan {
  std::vector<PlaneRow> rows;
  size_t bytes() const { return rows.size() * sizeof(PlaneRow); }
};

// Not a multiple of a power of two: the rows of a few pixels would share a set of the cache.
inline int64_t panel_step(int64_t pixels) { return ((pixels + kPlaneVector - 1) / kPlaneVector | 1) * kPlaneVector; }

inline PlanePlan plan_planes(const Problem& problem, const std::vector<RowShift<float>>& shifts) {
  PlanePlan plan;
  for (int64_t k = 0; k < problem.rows; ++k) {
    const RowShift<float>& shift = shifts[k];
    const float fy = shift.fraction[1], fx = shift.fraction[2];
    const int64_t channel = problem.source.empty() ? k : problem.source[k];
    plan.rows.push_back({channel, shift.base[1], shift.base[2], {1.0f - fy, fy}, {1.0f - fx, fx}});
  }
  return plan;
}

// Output rows of a band: as many as the panel has room for, but enough bands for all threads.
inline int64_t band_height(const Problem& problem, int64_t rows, int64_t out_channels) {
  constexpr int64_t kPanelBytes = 256 * 1024;
  const int64_t height = problem.extent.out[1], width = problem.extent.out[2];
  const int64_t row_bytes = rows * width * static_cast<int64_t>(sizeof(float));
  // Fewer multiply-adds than this are not worth another thread.
  constexpr int64_t kWork = 1 << 19;
  const int64_t work = problem.batch * height * width * rows * out_channels;
  const int64_t threads = static_cast<int64_t>(torch::stable::get_num_threads());
  const int64_t wanted = threads == 1 ? 1 : std::clamp<int64_t>(work / kWork, 1, 2 * threads);
  const int64_t most = std::clamp<int64_t>(kPanelBytes / row_bytes, 1, height);
  const int64_t bands = std::max((wanted + problem.batch - 1) / problem.batch, (height + most - 1) / most);
  return (height + bands - 1) / bands;
}

}  // namespace asl
