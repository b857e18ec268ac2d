// The names of the copies that tile_sample.cpp and tile_multiply.cpp make, one per instruction set.
#pragma once

#include "tiles.h"

namespace asl {

#define ASL_DECLARE_TILES(isa)                                                                             \
  void tile_multiply_##isa(const Product& product, int64_t first, int64_t last);                           \
  void tile_sample_##isa(float* panel, int64_t step, const Image& image, const ChannelBlock* blocks,      \
                         int64_t count, const Tile& tile);
ASL_DECLARE_TILES(base)
ASL_DECLARE_TILES(v3)
ASL_DECLARE_TILES(v4)
#undef ASL_DECLARE_TILES

}  // namespace asl
