// How row-major images are cut for the kernels that work in shared memory: whole planes, several where they are small,
// or bands of a large one.
#pragma once

#include "taps.cuh"

namespace asl::cuda {

constexpr int kPlaneThreads = 256, kStrip = 7;  // output rows that a thread walks down
constexpr int kMostPlanes = 64;                 // of a block

struct PlaneTiles {
  int planes, height, width;  // output planes of an image, and their size
  int group, rows;            // planes of a block, and their output rows; all rows where group is above 1
  int groups, bands;          // of an image
  int pitch;                  // bytes in shared memory from one input plane to the next
  int beside;                 // bytes for the output or for what lies beside it
  int across, units;          // threads that share a row, and all that share a plane
  unsigned per_across, per_units;  // for division by multiplication
  int threads;
  int64_t blocks;
  bool pairs;  // a thread has two columns
};

// Two images of one op: `in` is read through taps, the other lies pixel by pixel beside the output (or is it).
struct PlaneImages {
  const void *in, *beside;
  int in_planes, planes;
  const int *in_size, *size;  // [3]
  int64_t batch;
};

// `taps`: rows of `in` that an output row may need; `extra`: bytes a unit needs besides. False where this does not do.
bool plan_plane_tiles(const Problem& problem, const PlaneImages& images, int type, int taps, int extra,
                      PlaneTiles* tiles);

}  // namespace asl::cuda
