// The rows of a layer by sixteens, as the tiles sample them.
#pragma once

#include <vector>

#include "../problem.h"
#include "../rows.h"
#include "tiles.h"

namespace asl {

struct BlockPlan {
  bool fits;  // false where the shifts of some sixteen rows lie too far apart
  std::vector<ChannelBlock> blocks;
  int64_t lowest_row;  // the furthest image row below an output row that any block reads, as an offset
  size_t bytes() const { return blocks.size() * sizeof(ChannelBlock); }
};

BlockPlan plan_blocks(const Problem& problem, const std::vector<RowShift<float>>& shifts);

// [C_out, K] with any steps as [C_out / 16 rounded up, K, 16], padded with zeros.
void pack_weight(float* packed, const float* weight, int64_t row_step, int64_t column_step, int64_t out_channels,
                 int64_t rows);

}  // namespace asl
