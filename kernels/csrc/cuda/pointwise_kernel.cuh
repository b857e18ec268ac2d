// The fused kernel: a tile of output is the product of weights and samples, which never leave shared memory.
#pragma once

#include "launch.cuh"
#include "pointwise_epilogue.cuh"
#include "pointwise_multiply.cuh"
#include "pointwise_sample.cuh"

namespace asl::cuda::pointwise {

// The parts of dynamic shared memory, in this order; plan_pointwise() adds them up the same way.
struct Memory {
  char* left;     // [kPixels] lines: samples
  char* weights;  // [stages][columns] lines
  char* inputs;   // [stages][slots] lines
  Table table;
  Outputs outputs;

  __device__ __forceinline__ Memory(char* shared, const PointwiseTiles& tiles, int slab) {
    left = shared;
    weights = left + kPixels * kLine;
    inputs = weights + tiles.stages * tiles.columns * kLine;
    char* next = inputs + tiles.stages * tiles.slots * kLine;
    const auto take = [&next](int bytes) {
      char* at = next;
      next += bytes;
      return at;
    };
    const int rows = tiles.table_slabs * slab;
    outputs.pixel = reinterpret_cast<int64_t*>(take(kPixels * 8));
    table.fraction = reinterpret_cast<float2*>(take(rows * 8));
    table.whole = reinterpret_cast<int2*>(take(rows * 8));
    table.channel = reinterpret_cast<int*>(take(rows * 4));
    table.box = reinterpret_cast<Box*>(take(tiles.table_slabs * static_cast<int>(sizeof(Box))));
    // Once the last product is done, the samples' and stages' room is free.
    outputs.tile = reinterpret_cast<float*>(shared);
  }
};

template <typename E, int COLUMNS>
__device__ __forceinline__ void stage_slab(const PointwiseProblem& problem, const PointwiseTiles& tiles,
                                           const Memory& memory, const Place& place, int64_t slab) {
  const int stage = static_cast<int>(slab % tiles.stages), at = static_cast<int>(slab % tiles.table_slabs);
  stage_weights<E, COLUMNS>(problem, place.column, slab * kSlab<E>, memory.weights + stage * COLUMNS * kLine);
  const Box box = memory.table.box[at];
  char* input = memory.inputs + stage * tiles.slots * kLine;
  if (box.way == Way::channels) {
    stage_channels<E>(problem, tiles, place, box, input);
  } else if (box.way == Way::rows) {
    stage_rows<E>(problem, tiles, place, box, memory.table.channel + at * kSlab<E>, input);
  }
  cp_async_commit();
}

template <typename E, int COLUMNS>
__global__ void __launch_bounds__(kThreads, 2) shift_pointwise(PointwiseProblem problem, PointwiseTiles tiles) {
  ASL_DYNAMIC_SHARED(char, shared);
  const Memory memory(shared, tiles, kSlab<E>);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;

  // Blocks that share pixels, and then neighbours in the image, run close in time: their input is still in cache.
  int64_t item = blockIdx.x;
  Place place;
  place.column = item % tiles.column_tiles * COLUMNS;
  item /= tiles.column_tiles;
  place.out_x = static_cast<int>(item % tiles.tiles_x) * tiles.patch_columns * kPatch;
  item /= tiles.tiles_x;
  place.out_y = static_cast<int>(item % tiles.tiles_y) * tiles.patch_rows * kPatch;
  place.image = item / tiles.tiles_y * tiles.images;

  const int patches = tiles.patch_rows * tiles.patch_columns;
  const Patch patch{warp / patches, warp % patches / tiles.patch_columns * kPatch,
                    warp % patches % tiles.patch_columns * kPatch};
  const bool sampling = patch.image < tiles.images && place.image + patch.image < problem.batch &&
                        place.out_y + patch.y < problem.out_size[1] && place.out_x + patch.x < problem.out_size[2];
  if (lane < kPatch * kPatch) {
    memory.outputs.pixel[warp * kPatch * kPatch + lane] =
        output_offset(problem, sampling, place.image + patch.image, place.out_y + patch.y + lane / kPatch,
                      place.out_x + patch.x + lane % kPatch);
  }
  if (!sampling) {
    for (int i = lane; i < kPatch * kPatch * kLine / kChunk; i += 32) {
      reinterpret_cast<uint4*>(memory.left + warp * kPatch * kPatch * kLine)[i] = make_uint4(0, 0, 0, 0);
    }
  }

  Sums<COLUMNS> sums;
  const int64_t slabs = (problem.rows + kSlab<E> - 1) / kSlab<E>;
  for (int64_t slab = 0; slab < slabs; ++slab) {
    const int at = static_cast<int>(slab % tiles.table_slabs);
    if (at == 0) {
      // Whoever comes here has passed the barrier after which nobody reads the table's earlier slabs.
      const int64_t left = slabs - slab;
      for (int i = warp; i < tiles.table_slabs && i < left; i += kWarps) {
        describe_slab<E>(problem, tiles, memory.table, (slab + i) * kSlab<E>, i, lane);
      }
      __syncthreads();
      stage_slab<E, COLUMNS>(problem, tiles, memory, place, slab);
    }
    cp_async_wait<0>();
    __syncthreads();
    const bool more = slab + 1 < slabs && at + 1 < tiles.table_slabs;
    if (tiles.stages == 2 && more) stage_slab<E, COLUMNS>(problem, tiles, memory, place, slab + 1);
    const int stage = static_cast<int>(slab % tiles.stages);
    if (sampling) {
      sample_patch<E>(problem, memory.table, at, place, patch, memory.inputs + stage * tiles.slots * kLine, memory.left);
    }
    __syncthreads();
    multiply_slab<E, COLUMNS>(memory.left, memory.weights + stage * COLUMNS * kLine, sums, warp, lane);
    if (tiles.stages == 1 && more) {
      __syncthreads();
      stage_slab<E, COLUMNS>(problem, tiles, memory, place, slab + 1);
    }
  }
  store_outputs<E, COLUMNS>(problem, memory.outputs, place, sums, warp, lane);
}

template <typename E, int COLUMNS>
const char* start(const PointwiseProblem& problem, const PointwiseTiles& tiles, void* stream) {
  return launch(shift_pointwise<E, COLUMNS>, dim3(static_cast<unsigned>(tiles.blocks * tiles.column_tiles)),
                dim3(kThreads), static_cast<size_t>(tiles.shared_bytes), stream, problem, tiles);
}

// `type` takes over where the tile kernel cannot.
template <typename E>
const char* run(const PointwiseProblem& problem, const Device& device, Real type, void* stream) {
  PointwiseTiles tiles;
  if (!plan_pointwise(problem, device, E::kBytes, &tiles)) return asl_pointwise_any(&problem, type, stream);
  return tiles.columns == 64 ? start<E, 64>(problem, tiles, stream) : start<E, 128>(problem, tiles, stream);
}

}  // namespace asl::cuda::pointwise
