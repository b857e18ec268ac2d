// Chooses how row-major images are cut.
#include "plane_tiles.h"

namespace asl::cuda {

bool plan_plane_tiles(const Problem& problem, const PlaneImages& images, int type, int taps, int extra,
                      PlaneTiles* tiles) {
  const int64_t bytes = type == kFloat64 ? 8 : type == kFloat32 ? 4 : 2;
  if (problem.dims != 2 || problem.stride[1] != 1 || problem.stride[2] != 1) return false;
  constexpr int64_t kRoom = 54 << 10, kMultiprocessors = 132, kWanted = 7 * kMultiprocessors, kChunk = 16;
  const auto up = [](int64_t value, int64_t to) { return (value + to - 1) / to * to; };
  const int64_t height = images.size[1], width = images.size[2];
  const int64_t in_height = images.in_size[1], in_width = images.in_size[2];
  const uintptr_t addresses = reinterpret_cast<uintptr_t>(images.in) | reinterpret_cast<uintptr_t>(images.beside);
  if (height * width == 0 || in_height * in_width == 0 || addresses % bytes != 0) return false;
  // A pair of columns is a word in memory.
  tiles->pairs = bytes == 2 && width % 2 == 0 && in_width % 2 == 0 && addresses % 4 == 0;
  tiles->across = static_cast<int>(tiles->pairs ? width / 2 : width);
  // With room for the phase that a plane starts at; an odd number of chunks, so that planes lie in different banks.
  const auto pitch = [&](int64_t rows) {
    const int64_t staged = rows == height || rows + taps > in_height ? in_height : rows + taps;
    const int64_t chunks = (up(staged * in_width * bytes, kChunk) + kChunk) / kChunk;
    return (chunks | 1) * kChunk;
  };
  const auto units = [&](int64_t rows) { return (rows + kStrip - 1) / kStrip * tiles->across; };
  const auto room = [&](int64_t rows, int64_t group) {
    // As if without pairs, so that the cut does not depend on alignment, which a workspace's size cannot know.
    return group * (pitch(rows) + (rows + kStrip - 1) / kStrip * width * extra) + up(group * rows * width * bytes, kChunk) + kChunk;
  };
  if (in_width * (taps + 1) * bytes > kRoom || width * bytes > kRoom) return false;
  int64_t rows = height, group = 1;
  while (rows > 1 && room(rows, 1) > kRoom) rows = rows > kStrip ? (rows - 1) / kStrip * kStrip : rows - 1;
  if (room(rows, 1) > kRoom) return false;
  const auto blocks = [&](int64_t planes) { return images.batch * ((images.planes + planes - 1) / planes); };
  if (rows == height) {
    while (group < kMostPlanes && group < images.planes && room(rows, 2 * group) <= kRoom &&
           (group * units(rows) < kPlaneThreads / 2 || blocks(2 * group) >= kWanted)) {
      group *= 2;
    }
  }
  tiles->planes = images.planes;
  tiles->height = static_cast<int>(height);
  tiles->width = static_cast<int>(width);
  tiles->group = static_cast<int>(group);
  tiles->rows = static_cast<int>(rows);
  tiles->groups = static_cast<int>((images.planes + group - 1) / group);
  tiles->bands = static_cast<int>((height + rows - 1) / rows);
  tiles->pitch = static_cast<int>(pitch(rows));
  tiles->beside = static_cast<int>(up(group * rows * width * bytes, kChunk) + kChunk);
  tiles->units = static_cast<int>(units(rows));
  tiles->per_across = reciprocal(tiles->across);
  tiles->per_units = reciprocal(tiles->units);
  const int64_t work = group * units(rows), passes = (work + kPlaneThreads - 1) / kPlaneThreads;
  tiles->threads = static_cast<int>(up((work + passes - 1) / passes, 32));
  tiles->blocks = blocks(group) * tiles->bands;
  return tiles->blocks <= INT32_MAX && in_height * in_width < INT32_MAX / 16;
}

}  // namespace asl::cuda
