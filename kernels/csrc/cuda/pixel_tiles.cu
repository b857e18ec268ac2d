// Chooses the tiles for images with their channels last.
#include "pixel_tiles.cuh"

#include <algorithm>

namespace asl::cuda {

bool plan_pixel_tiles(const Problem& problem, const PixelImages& images, int64_t batch, int type, PixelTiles* tiles) {
  const int64_t bytes = type == kFloat32 ? 4 : 2, line = kLineBytes / bytes, per_chunk = kChunkBytes / bytes;
  if (type == kFloat64 || problem.dims != 2 || problem.stride[1] != 1 || problem.stride[2] != 1 ||
      images.in_planes % per_chunk != 0 || images.out_planes % per_chunk != 0 ||
      (reinterpret_cast<uintptr_t>(images.in) | reinterpret_cast<uintptr_t>(images.out)) % kChunkBytes != 0) {
    return false;
  }
  // Taps of a 3x3 kernel's reach and a little more find room; what is left is for shifts that reach further.
  constexpr int64_t kReach = 5, kRoom = kTileLines - kTileRun, kEnough = 132 * kTileBlocks;
  const int64_t height = images.out_size[1], width = images.out_size[2];
  int64_t least = -1, rows = 0, columns = 0;
  for (int64_t across = 1; across <= width; ++across) {
    const int64_t wide = (width + across - 1) / across;
    const int64_t most = kRoom / (wide + kReach) - kReach;
    if (most < 1) continue;
    const int64_t down = (height + most - 1) / most, tall = (height + down - 1) / down;
    const int64_t runs = (wide + 3) / 4 * 4;
    const int64_t work = across * down * (2 * runs * tall + (tall + kReach) * (wide + kReach));
    if (least >= 0 && work >= least) {
      if (wide < 8) break;
      continue;
    }
    least = work;
    rows = tall;
    columns = wide;
  }
  if (least < 0) return false;
  tiles->batch = static_cast<int>(batch);
  tiles->height = images.out_size[1];
  tiles->width = images.out_size[2];
  tiles->rows = static_cast<int>(rows);
  tiles->columns = static_cast<int>(columns);
  tiles->tiles_y = static_cast<int>((height + rows - 1) / rows);
  tiles->tiles_x = static_cast<int>((width + columns - 1) / columns);
  tiles->slabs = static_cast<int>((images.out_planes + line - 1) / line);
  const int64_t each = tiles->tiles_y * static_cast<int64_t>(tiles->tiles_x) * tiles->slabs;
  // Several small images to a block, but not so many that multiprocessors have nothing to do.
  int64_t together = tiles->tiles_y == 1 && tiles->tiles_x == 1 ? kRoom / ((rows + kReach) * (columns + kReach)) : 1;
  while (together > 1 && (batch + together - 1) / together * each < kEnough) --together;
  tiles->images = static_cast<int>(together);
  tiles->groups = static_cast<int>((batch + together - 1) / together);
  tiles->across = static_cast<int>((columns + kTileRun - 1) / kTileRun);
  tiles->runs = static_cast<int>(tiles->across * rows * together);
  tiles->lines = kTileLines;
  tiles->per_slabs = reciprocal(tiles->slabs);
  tiles->per_tiles_x = reciprocal(tiles->tiles_x);
  tiles->per_tiles_y = reciprocal(tiles->tiles_y);
  tiles->per_across = reciprocal(tiles->across);
  tiles->per_rows = reciprocal(tiles->rows);
  tiles->blocks = tiles->groups * each;
  const int64_t pixels = together * images.in_size[1] * images.in_size[2];
  // What division by multiplication is exact for.
  const int64_t widest = std::max({tiles->slabs, tiles->tiles_x, tiles->tiles_y});
  return tiles->blocks * widest < INT32_MAX && pixels < INT32_MAX && pixels * (images.in_planes / per_chunk) < INT32_MAX;
}

}  // namespace asl::cuda
