// Chooses the tile kernel's shape: pixels and columns of a block, and room for its input.
#include "pointwise.h"

#include <algorithm>

namespace asl::cuda {
namespace {

constexpr int64_t kPatch = 4, kLine = 128, kSlotGroup = 32;
constexpr int64_t kReserved = 1024;  // shared memory that the system takes of every block

int64_t divided_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Input pixels of a tile whose taps lie within `extent` whole pixels, with the margin that masked taps may touch.
int64_t slots_for(const PointwiseProblem& problem, int64_t images, int64_t rows, int64_t columns, int64_t extent) {
  const int64_t height = (kPatch * rows - 1) * problem.stride[1] + 1 + extent;
  const int64_t width = (kPatch * columns - 1) * problem.stride[2] + 1 + extent;
  return divided_up(images * height * width + width + 1, kSlotGroup) * kSlotGroup;
}

// The cut with the least work: products of all the tile's pixels, used or not, and the input that is brought in.
void cut(const PointwiseProblem& problem, PointwiseTiles* tiles) {
  const int64_t patches = tiles->pixels / (kPatch * kPatch);
  const int64_t tall = divided_up(problem.out_size[1], kPatch), wide = divided_up(problem.out_size[2], kPatch);
  int64_t least = -1;
  for (int64_t rows = 1; rows <= std::min(patches, tall); ++rows) {
    for (int64_t columns = 1; columns <= std::min(patches / rows, wide); ++columns) {
      const bool whole = rows == tall && columns == wide;
      const int64_t images = whole ? std::min(patches / (rows * columns), problem.batch) : 1;
      const int64_t tiles_y = divided_up(tall, rows), tiles_x = divided_up(wide, columns);
      const int64_t blocks = divided_up(problem.batch, images) * tiles_y * tiles_x;
      const int64_t work = 2 * tiles->pixels + slots_for(problem, images, rows, columns, 2);
      if (least >= 0 && blocks * work >= least) continue;
      least = blocks * work;
      tiles->images = static_cast<int32_t>(images);
      tiles->patch_rows = static_cast<int32_t>(rows);
      tiles->patch_columns = static_cast<int32_t>(columns);
      tiles->tiles_y = static_cast<int32_t>(tiles_y);
      tiles->tiles_x = static_cast<int32_t>(tiles_x);
      tiles->groups = static_cast<int32_t>(divided_up(problem.batch, images));
    }
  }
}

// Fills in all but pixels and columns; false where the tile does not fit the device, or not well.
bool fit(const PointwiseProblem& problem, const Device& device, int element_bytes, PointwiseTiles* tiles) {
  cut(problem, tiles);
  // The kernel counts 16-byte chunks within a tile's images in 32 bits.
  constexpr int64_t kChunks = int64_t{1} << 31;
  const int64_t lines = tiles->images * problem.size[1];
  if (lines >= kChunks || lines * problem.size[2] / kChunks * problem.channels > 0) return false;
  if (lines * problem.size[2] * divided_up(problem.channels, 16 / element_bytes) >= kChunks) return false;
  tiles->column_tiles = static_cast<int32_t>(divided_up(problem.out_channels, tiles->columns));

  const int64_t slab = kLine / element_bytes, slabs = divided_up(problem.rows, slab);
  tiles->weight_slabs = slabs > 1 || tiles->column_tiles > 1 ? 2 : 1;
  tiles->table_slabs = static_cast<int32_t>(std::clamp<int64_t>(slabs, 1, kTableSlabs));
  const int64_t table = tiles->table_slabs * (slab * kTableRowBytes + kBoxBytes);
  const int64_t fixed = (tiles->pixels + tiles->weight_slabs * tiles->columns) * kLine + tiles->pixels * 8 +
                        kMostPatches * kPatchBytes + 2 * kItemBytes + 2 * tiles->columns * 4 + table;
  const auto wanted = [&](int64_t extent) {
    return slots_for(problem, tiles->images, tiles->patch_rows, tiles->patch_columns, extent);
  };
  // Several blocks to a multiprocessor hide each other's waits; what room they leave is for shifts that reach far.
  // Shifts of a 3x3 kernel span two pixels, those that nearly every trained layer learns up to eight.
  int64_t resident = 1;
  bool roomy = false;
  for (int blocks = blocks_of(tiles->pixels, tiles->columns); blocks >= 1 && !roomy; --blocks) {
    const int64_t share = device.shared_per_multiprocessor / blocks - kReserved;
    const int64_t budget = std::min<int64_t>(share, device.shared_per_block);
    const int64_t room = (budget - fixed) / (kLine * kSlotGroup) * kSlotGroup;
    tiles->slots = static_cast<int32_t>(std::max<int64_t>(std::min(room, wanted(8)), 0));
    resident = blocks;
    roomy = room >= wanted(2);
  }
  const int64_t count = int64_t{tiles->column_tiles} * tiles->tiles_x * tiles->tiles_y * tiles->groups;
  // A second box, where the table stays and the blocks that are there at once remain as many.
  const int64_t at_once = std::min(resident, divided_up(count, device.multiprocessors));
  const int64_t share = std::min<int64_t>(device.shared_per_multiprocessor / at_once - kReserved, device.shared_per_block);
  const int64_t room = (share - fixed) / (2 * kLine * kSlotGroup) * kSlotGroup;
  tiles->boxes = slabs <= kTableSlabs && room >= wanted(4) ? 2 : 1;
  if (tiles->boxes == 2) tiles->slots = static_cast<int32_t>(std::min<int64_t>(room, tiles->slots));
  tiles->shared_bytes = fixed + tiles->boxes * tiles->slots * kLine;
  int64_t rest = std::min<int64_t>(count, device.multiprocessors * resident);
  tiles->grid = static_cast<int32_t>(rest);
  const int32_t radix[] = {tiles->column_tiles, tiles->tiles_x, tiles->tiles_y};
  for (int digit = 0; digit < 3; ++digit) {
    tiles->step[digit] = static_cast<int32_t>(rest % radix[digit]);
    rest /= radix[digit];
  }
  tiles->step[3] = static_cast<int32_t>(rest);
  return tiles->shared_bytes <= device.shared_per_block;
}

}  // namespace

bool plan_pointwise(const PointwiseProblem& problem, const Device& device, int element_bytes, bool wide,
                    PointwiseTiles* tiles) {
  constexpr int64_t kFar = int64_t{1} << 30;
  if (problem.axes > 2 || problem.channels >= kFar || problem.rows >= kFar) return false;
  if (problem.batch >= kFar || problem.out_channels >= kFar) return false;
  for (int axis = 1; axis < 3; ++axis) {
    const int64_t size = problem.size[axis], out = problem.out_size[axis], stride = problem.stride[axis];
    // The tile's last pixels may lie past the output.
    if (size >= kFar || out >= kFar || stride >= kFar || (out + kPatch * kMostPatches) * stride >= kFar) return false;
  }
  tiles->batch = static_cast<int32_t>(problem.batch);
  tiles->height = static_cast<int32_t>(problem.size[1]);
  tiles->width = static_cast<int32_t>(problem.size[2]);
  tiles->channels = static_cast<int32_t>(problem.channels);
  tiles->out_height = static_cast<int32_t>(problem.out_size[1]);
  tiles->out_width = static_cast<int32_t>(problem.out_size[2]);
  tiles->out_channels = static_cast<int32_t>(problem.out_channels);
  tiles->stride_y = static_cast<int32_t>(problem.stride[1]);
  tiles->stride_x = static_cast<int32_t>(problem.stride[2]);
  // All output channels in one block, where registers allow, so that no pixel is sampled twice.
  tiles->columns = problem.out_channels <= 64 ? 64 : problem.out_channels <= 128 || !wide ? 128 : 256;
  tiles->pixels = tiles->columns == 256 ? 64 : 128;
  return fit(problem, device, element_bytes, tiles);
}

}  // namespace asl::cuda
