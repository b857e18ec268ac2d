// The fused kernel: a tile of output is the product of weights and samples, which never leave shared memory.
#pragma once

#include "launch.cuh"
#include "pointwise_epilogue.cuh"
#include "pointwise_multiply.cuh"
#include "pointwise_sample.cuh"

namespace asl::cuda::pointwise {

// A tile's number in mixed radix: columns count fastest, so that blocks that share pixels run close in time, then
// neighbours in the image, whose common input is still in cache.
struct Item {
  int column, x, y, group;

  static __device__ __forceinline__ Item of(unsigned number, const PointwiseTiles& tiles) {
    Item item;
    item.column = static_cast<int>(number % tiles.column_tiles);
    number /= tiles.column_tiles;
    item.x = static_cast<int>(number % tiles.tiles_x);
    number /= tiles.tiles_x;
    item.y = static_cast<int>(number % tiles.tiles_y);
    item.group = static_cast<int>(number / tiles.tiles_y);
    return item;
  }
  __device__ __forceinline__ void advance(const PointwiseTiles& tiles) {
    const auto carry = [](int& digit, int step, int radix) {
      digit += step;
      const bool over = digit >= radix;
      digit -= over ? radix : 0;
      return static_cast<int>(over);
    };
    const int to_x = carry(column, tiles.step[0], tiles.column_tiles);
    const int to_y = carry(x, tiles.step[1] + to_x, tiles.tiles_x);
    group += tiles.step[3] + carry(y, tiles.step[2] + to_y, tiles.tiles_y);
  }
  template <typename T>
  __device__ __forceinline__ Place place(const PointwiseTiles& tiles) const {
    return {group * tiles.images, y * tiles.patch_rows * kPatch, x * tiles.patch_columns * kPatch,
            column * T::kColumns};
  }
};
static_assert(sizeof(Item) == kItemBytes);

// The parts of dynamic shared memory, in this order; plan_pointwise() adds them up the same way.
struct Memory {
  char* left;     // [pixels] lines: samples
  char* weights;  // [weight_slabs][columns] lines
  char* input;    // [boxes][slots] lines
  int64_t* pixel;  // [pixels], see output_offset()
  // Kept here, since registers are short.
  Patch* patch;  // [warps][T::kPatchesEach]
  Item* item;    // [2], this step's and the next one's
  float* bias;   // [2][columns], like the weights
  Table table;

  __device__ __forceinline__ Memory(char* shared, const PointwiseTiles& tiles, int slab) {
    char* next = shared;
    const auto take = [&next](int bytes) {
      char* at = next;
      next += bytes;
      return at;
    };
    const int rows = tiles.table_slabs * slab;
    left = take(tiles.pixels * kLine);
    weights = take(tiles.weight_slabs * tiles.columns * kLine);
    input = take(tiles.boxes * tiles.slots * kLine);
    pixel = reinterpret_cast<int64_t*>(take(tiles.pixels * 8));
    patch = reinterpret_cast<Patch*>(take(kMostPatches * kPatchBytes));
    item = reinterpret_cast<Item*>(take(2 * kItemBytes));
    bias = reinterpret_cast<float*>(take(2 * tiles.columns * 4));
    table.row = reinterpret_cast<Row*>(take(rows * 16));
    table.whole = reinterpret_cast<int2*>(take(rows * 8));
    table.box = reinterpret_cast<Box*>(take(tiles.table_slabs * kBoxBytes));
  }
};

// Starts bringing in a slab's input and, unless null, weights: all is there after cp_async_wait() and a barrier.
template <typename E, typename T>
__device__ __forceinline__ void stage_slab(const PointwiseProblem& problem, const PointwiseTiles& tiles,
                                           const Memory& memory, const Place& place, int slab, char* weights,
                                           char* input) {
  const int at = slab % kTableSlabs;
  if (weights != nullptr) stage_weights<E, T::kColumns>(problem, place.column, slab * kSlab<E>, weights);
  const Box box = memory.table.box[at];
  if (box.way == Way::channels) {
    stage_channels<E>(problem, tiles, place, box, input);
  } else if (box.way == Way::rows) {
    stage_rows<E>(problem, tiles, place, box, memory.table.row + at * kSlab<E>, input);
  }
  cp_async_commit();
}

// A block goes over several tiles of output, slab by slab: while it multiplies one, the next one's input arrives.
template <typename E, typename T>
__global__ void __launch_bounds__(kThreads, T::kBlocks) shift_pointwise(PointwiseProblem problem, PointwiseTiles tiles) {
  ASL_DYNAMIC_SHARED(char, shared);
  const Memory memory(shared, tiles, kSlab<E>);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;

  if (lane < T::kPatchesEach) {
    const int index = warp * T::kPatchesEach + lane, number = index / T::kWarpsEach;
    const int each = tiles.patch_rows * tiles.patch_columns, within = number % each;
    memory.patch[index] = {number / each,
                           within / tiles.patch_columns * kPatch + index % T::kWarpsEach * T::kRows,
                           within % tiles.patch_columns * kPatch, index * T::kRows * kPatch};
  }
  // Lines that are never sampled are still multiplied.
  for (int i = lane; i < T::kLines * kLine / kChunk; i += 32) {
    reinterpret_cast<uint4*>(memory.left + warp * T::kLines * kLine)[i] = make_uint4(0, 0, 0, 0);
  }

  const int slabs = static_cast<int>((problem.rows + kSlab<E> - 1) / kSlab<E>);
  if (threadIdx.x == 0) memory.item[0] = Item::of(blockIdx.x, tiles);
  __syncthreads();

  Sums<T> sums;
  int parity = 0;
  for (int slab = -1;;) {
    const int input_bytes = (tiles.boxes - 1) * tiles.slots * kLine;  // from one box to the other
    Item next;
    int next_slab = 0;
    bool last = false;
    // Describes and fetches what comes next, where nobody reads the memory that it goes to any more.
    const auto fetch = [&] {
      next = memory.item[parity];
      next_slab = slab + 1;
      if (next_slab >= slabs && slab >= 0) {
        next_slab = 0;
        next.advance(tiles);
      }
      if (threadIdx.x == 0) memory.item[parity ^ 1] = next;
      last = next.group >= tiles.groups;
      if (last) return;
      if (next_slab % kTableSlabs == 0 && (slab < 0 || slabs > kTableSlabs)) {
        for (int i = warp; i < kTableSlabs && next_slab + i < slabs; i += kWarps) {
          describe_slab<E>(problem, tiles, memory.table, (next_slab + i) * kSlab<E>, i, lane);
        }
        __syncthreads();
      }
      // Weights that fill one slab and all columns stay for every tile.
      const bool keep = tiles.weight_slabs == 1 && slab >= 0;
      char* const weights = memory.weights + (parity ^ 1) * (tiles.weight_slabs - 1) * T::kColumns * kLine;
      if (!keep && next_slab == 0) {
        stage_bias<E, T>(problem, tiles, next.column * T::kColumns, memory.bias + (weights - memory.weights) / kLine);
      }
      if (slabs > 0) {
        stage_slab<E, T>(problem, tiles, memory, next.template place<T>(tiles), next_slab, keep ? nullptr : weights,
                         memory.input + (parity ^ 1) * input_bytes);
      }
    };
    if (slab >= 0) {
      cp_async_wait<0>();
      __syncthreads();
      if (tiles.boxes == 2) fetch();
      const Place place = memory.item[parity].template place<T>(tiles);
#pragma unroll 1
      for (int i = 0; i < T::kPatchesEach; ++i) {
        const Patch patch = memory.patch[warp * T::kPatchesEach + i];
        const int image = place.image + patch.image, y = place.out_y + patch.y, x = place.out_x + patch.x;
        const bool exists =
            patch.image < tiles.images && image < tiles.batch && y < tiles.out_height && x < tiles.out_width;
        if (slab == 0 && lane < T::kRows * kPatch) {
          memory.pixel[patch.line + lane] =
              output_offset(problem, tiles, exists, image, y + lane / kPatch, x + lane % kPatch);
        }
        if (exists && slabs > 0) {
          sample_patch<E, T::kRows>(problem, tiles, memory.table, slab % kTableSlabs, place, patch,
                                    memory.input + parity * input_bytes, memory.left);
        }
      }
      __syncthreads();
    }
    if (slab < 0 || tiles.boxes == 1) fetch();
    if (slab >= 0) {
      const int column = memory.item[parity].column * T::kColumns;
      const char* const weights = memory.weights + parity * (tiles.weight_slabs - 1) * T::kColumns * kLine;
      if (slab == 0) begin_sums(memory.bias + (weights - memory.weights) / kLine, sums, warp, lane);
      if (slabs > 0) multiply_slab<E, T>(memory.left, weights, sums, warp, lane);
      if (slab + 1 >= slabs) {
        store_outputs<E, T>(problem, tiles, memory.pixel, column, sums, warp, lane);
      }
    }
    if (last) return;
    slab = next_slab;
    parity ^= 1;
  }
}

template <typename E, typename T>
const char* start(const PointwiseProblem& problem, const PointwiseTiles& tiles, void* stream) {
  return launch(shift_pointwise<E, T>, dim3(static_cast<unsigned>(tiles.grid)), dim3(kThreads),
                static_cast<size_t>(tiles.shared_bytes), stream, problem, tiles);
}

// `type` is what the any-kernel calls it, which takes over where the tile kernel cannot.
template <typename E>
const char* run(const PointwiseProblem& problem, const Device& device, Real type, void* stream) {
  constexpr bool kWide = E::kBytes == 2;
  PointwiseTiles tiles;
  if (!plan_pointwise(problem, device, E::kBytes, kWide, &tiles)) return asl_pointwise_any(&problem, type, stream);
  if (tiles.columns == 64) return start<E, Tile<128, 64>>(problem, tiles, stream);
  if constexpr (kWide) {
    if (tiles.columns == 256) return start<E, Tile<64, 256>>(problem, tiles, stream);
  }
  return start<E, Tile<128, 128>>(problem, tiles, stream);
}

}  // namespace asl::cuda::pointwise
