// Chooses the tile kernel's shape: pixels of a block, room for input, stages, columns.
#include "pointwise.h"

#include <algorithm>

namespace asl::cuda {
namespace {

constexpr int64_t kPatch = 4, kPatches = 8, kLine = 128;
constexpr int64_t kPixels = kPatches * kPatch * kPatch;
constexpr int64_t kReserved = 1024;  // shared memory that the system takes of every block

int64_t divided_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Input pixels of a tile whose taps lie within `extent` whole pixels, with the margin that masked taps may touch.
int64_t slots_for(const PointwiseProblem& problem, int64_t images, int64_t rows, int64_t columns, int64_t extent) {
  const int64_t height = (kPatch * rows - 1) * problem.stride[1] + 1 + extent;
  const int64_t width = (kPatch * columns - 1) * problem.stride[2] + 1 + extent;
  return images * height * width + width + 1;
}

// The cut with the least work: products of all the tile's pixels, used or not, and the input that is brought in.
void cut(const PointwiseProblem& problem, PointwiseTiles* tiles) {
  const int64_t tall = divided_up(problem.out_size[1], kPatch), wide = divided_up(problem.out_size[2], kPatch);
  int64_t least = -1;
  for (int64_t rows = 1; rows <= std::min(kPatches, tall); ++rows) {
    for (int64_t columns = 1; columns <= std::min(kPatches / rows, wide); ++columns) {
      const bool whole = rows == tall && columns == wide;
      const int64_t images = whole ? std::min(kPatches / (rows * columns), problem.batch) : 1;
      const int64_t tiles_y = divided_up(tall, rows), tiles_x = divided_up(wide, columns);
      const int64_t blocks = divided_up(problem.batch, images) * tiles_y * tiles_x;
      const int64_t work = 2 * kPixels + slots_for(problem, images, rows, columns, 2);
      if (least >= 0 && blocks * work >= least) continue;
      least = blocks * work;
      tiles->images = static_cast<int32_t>(images);
      tiles->patch_rows = static_cast<int32_t>(rows);
      tiles->patch_columns = static_cast<int32_t>(columns);
      tiles->tiles_y = static_cast<int32_t>(tiles_y);
      tiles->tiles_x = static_cast<int32_t>(tiles_x);
      tiles->blocks = blocks;
    }
  }
}

}  // namespace

bool plan_pointwise(const PointwiseProblem& problem, const Device& device, int element_bytes, PointwiseTiles* tiles) {
  constexpr int64_t kFar = int64_t{1} << 30;
  if (problem.axes > 2 || problem.channels >= kFar || problem.rows >= kFar || problem.batch >= kFar) return false;
  for (int axis = 1; axis < 3; ++axis) {
    const int64_t reach = std::max(problem.size[axis], problem.out_size[axis]);
    if (reach >= kFar || problem.stride[axis] >= kFar) return false;
    // Coordinates of the tile's last pixels, which may lie past the output.
    if ((problem.out_size[axis] + kPatch * kPatches) * problem.stride[axis] >= kFar) return false;
  }
  cut(problem, tiles);
  const int64_t slab = kLine / element_bytes, slabs = divided_up(problem.rows, slab);
  tiles->columns = problem.out_channels <= 64 ? 64 : 128;
  tiles->column_tiles = divided_up(problem.out_channels, tiles->columns);
  tiles->table_slabs = static_cast<int32_t>(std::clamp<int64_t>(slabs, 1, kTableSlabs));
  const int64_t blocks = tiles->blocks * tiles->column_tiles;
  if (blocks >= int64_t{1} << 31) return false;

  const int64_t table = tiles->table_slabs * (slab * kTableRowBytes + kBoxBytes) + kPixels * 8;
  const auto room = [&](int64_t budget, int stages) {
    return (budget - table - kPixels * kLine - stages * tiles->columns * kLine) / (stages * kLine);
  };
  const auto wanted = [&](int64_t extent) {
    return slots_for(problem, tiles->images, tiles->patch_rows, tiles->patch_columns, extent);
  };
  // Two blocks to a multiprocessor hide each other's waits; the second stage comes next, then room for far shifts.
  const int64_t half = std::min<int64_t>(device.shared_per_multiprocessor / 2 - kReserved, device.shared_per_block);
  const struct {
    int64_t budget;
    int stages;
  } choices[] = {{half, 2}, {half, 1}, {device.shared_per_block, 2}, {device.shared_per_block, 1}};
  const int64_t usual = wanted(2), generous = wanted(8);
  for (const auto& choice : choices) {
    tiles->stages = choice.stages;
    tiles->slots = static_cast<int32_t>(std::min(room(choice.budget, choice.stages), generous));
    if (tiles->slots >= usual && (choice.stages == 1 || slabs > 1)) break;
  }
  // The output passes through the room of samples, weights and inputs.
  const int64_t least = divided_up(kOutputTileBytes - kPixels * kLine - tiles->columns * kLine, kLine);
  tiles->slots = static_cast<int32_t>(std::max<int64_t>(tiles->slots, least));
  tiles->shared_bytes = table + kPixels * kLine + tiles->stages * (tiles->columns + tiles->slots) * kLine;
  return tiles->shared_bytes <= device.shared_per_block;
}

}  // namespace asl::cuda
