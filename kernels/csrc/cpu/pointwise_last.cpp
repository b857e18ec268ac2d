// The fused op in channels_last: the image is walked in tiles of a few pixels, each strip from top to bottom, so that
// the image rows under a tile are in the first-level cache when the next tile reads them again.
#include "pointwise_last.h"

#include <algorithm>

#include <torch/csrc/stable/ops.h>

#include "../rows.h"
#include "channel_blocks.h"
#include "panel.h"
#include "remember.h"
#include "tiles.h"

namespace asl {
namespace {

using torch::headeronly::ScalarType;

thread_local Scratch panel_scratch;
thread_local Scratch weight_scratch;
thread_local Scratch bias_scratch;

bool applies(const Problem& problem, const Tensor& x) {
  return problem.channels_last && x.scalar_type() == ScalarType::Float && problem.dims == 2 && problem.rows > 0 &&
         problem.channels <= INT32_MAX;
}

// How an image is cut into tiles of nearly the same size; they count down each strip, strip by strip.
struct Grid {
  int64_t height, width;    // of a tile
  int64_t strips, per_strip;
  const Extent& extent;

  Grid(const Extent& extent, int64_t pixels) : extent(extent) {
    const int64_t out_height = extent.out[1], out_width = extent.out[2];
    strips = (out_width + pixels - 1) / pixels;
    width = (out_width + strips - 1) / strips;
    strips = (out_width + width - 1) / width;
    // Narrow images: several of their rows make a tile.
    height = strips > 1 ? 1 : std::min(out_height, std::max<int64_t>(pixels / width, 1));
    per_strip = (out_height + height - 1) / height;
    height = (out_height + per_strip - 1) / per_strip;
    per_strip = (out_height + height - 1) / height;
  }
  int64_t count() const { return strips * per_strip; }
};

// The tiles of a batch in order, from any one on.
struct Walk {
  const Grid& grid;
  int64_t n, strip, step;

  Walk(const Grid& grid, int64_t index)
      : grid(grid), n(index / grid.count()), strip(index / grid.per_strip % grid.strips), step(index % grid.per_strip) {}
  void next() {
    if (++step < grid.per_strip) return;
    step = 0;
    if (++strip < grid.strips) return;
    strip = 0;
    ++n;
  }
  Tile tile() const {
    const int64_t x0 = strip * grid.width, y0 = step * grid.height;
    return {y0, x0, std::min(grid.height, grid.extent.out[1] - y0), std::min(grid.width, grid.extent.out[2] - x0)};
  }
};

constexpr int64_t kMostTogether = 16;

// A weight that does not fit into the first-level cache is read once for several tiles.
int64_t tiles_together(int64_t weight_bytes, int64_t panel_bytes) {
  constexpr int64_t kSmall = 128 * 1024, kLarge = 512 * 1024;
  const int64_t wanted = weight_bytes <= kSmall ? 1 : weight_bytes <= kLarge ? 4 : kMostTogether;
  // A large weight comes from beyond the second-level cache each time, so that the panels may have most of that.
  const int64_t room = weight_bytes <= kLarge ? 256 * 1024 : 768 * 1024;
  return std::clamp<int64_t>(room / std::max<int64_t>(panel_bytes, 1), 1, wanted);
}

struct Layer {
  const BlockPlan& plan;
  const Grid& grid;
  Image image;        // the first of the batch
  int64_t image_step, output_step;
  Product product;    // what all tiles share
  const Tiles& tiles;

  // Image rows that only a later tile of the strip will read, and where that tile will write; where there is none,
  // what is there already.
  void look_ahead(Product& job, const Image& of, int64_t n, const Tile& tile, int64_t together) const {
    const Extent& extent = of.extent;
    const int64_t y = tile.y0 + together * grid.height;
    const int64_t last = (y + tile.height - 1) * extent.stride[1] + plan.lowest_row;
    const int64_t first = grid.strips > 1 ? last : last - grid.height * extent.stride[1] + 1;
    const int64_t column = std::max<int64_t>(0, (tile.x0 - 1) * extent.stride[2]);
    const int64_t read = first >= 0 && last < extent.size[1] ? (first * extent.size[2] + column) * of.channels : 0;
    const int64_t pixel = y + tile.height <= extent.out[1] ? y * extent.out[2] + tile.x0 : 0;
    job.read_ahead = reinterpret_cast<const char*>(of.data + read);
    job.write_ahead = reinterpret_cast<const char*>(product.output + n * output_step + pixel * product.out_channels);
  }

  // The bytes of one such look, shared out over the rows of all pieces of the product.
  void set_steps(Product& job, int64_t blocks) const {
    const Extent& extent = image.extent;
    const int64_t reads = grid.strips > 1 ? (grid.width + 2) * extent.stride[2]
                                          : grid.height * extent.stride[1] * extent.size[2];
    const int64_t steps = std::max<int64_t>(product.rows * ((blocks + 1) / 2), 1);
    const int64_t size = static_cast<int64_t>(sizeof(float));
    job.read_step = reads * image.channels * size / steps;
    job.write_step = grid.height * grid.width * product.out_channels * size / steps;
  }

  // Tiles [first, last) of the batch, output channels [sixteen * from, sixteen * to).
  void run(int64_t first, int64_t last, int64_t from, int64_t to) const {
    const int64_t blocks = static_cast<int64_t>(plan.blocks.size());
    const int64_t panel_step = tiles.pixels * kBlock, panel_size = blocks * panel_step;
    const int64_t weight_bytes = (to - from) * kBlock * product.rows * static_cast<int64_t>(sizeof(float));
    const int64_t panel_bytes = panel_size * static_cast<int64_t>(sizeof(float));
    const int64_t together = tiles_together(weight_bytes, panel_bytes);
    float* panels = static_cast<float*>(panel_scratch.get(together * panel_bytes));
    int64_t at[kMostTogether][kTile];
    Product jobs[kMostTogether];
    Tile shapes[kMostTogether] = {};
    for (int64_t i = 0; i < together; ++i) {
      jobs[i] = product;
      jobs[i].panel = panels + i * panel_size;
      jobs[i].at = at[i];
      set_steps(jobs[i], to - from);
    }
    Walk walk(grid, first);
    for (int64_t begin = first; begin < last; begin += together) {
      const int64_t count = std::min(together, last - begin);
      for (int64_t i = 0; i < count; ++i, walk.next()) {
        const Tile tile = walk.tile();
        Image here = image;
        here.data += walk.n * image_step;
        tiles.sample(panels + i * panel_size, panel_step, here, plan.blocks.data(), blocks, tile);
        jobs[i].pixels = tile.height * tile.width;
        look_ahead(jobs[i], here, walk.n, tile, together);
        const int64_t corner = walk.n * output_step + (tile.y0 * image.extent.out[2] + tile.x0) * product.out_channels;
        jobs[i].output = product.output + corner;
        if (product.epilogue.residual != nullptr) jobs[i].epilogue.residual = product.epilogue.residual + corner;
        // Nearly all tiles are alike.
        if (tile.height != shapes[i].height || tile.width != shapes[i].width) {
          shapes[i] = tile;
          int64_t* to_pixel = at[i];
          for (int64_t y = 0; y < tile.height; ++y) {
            for (int64_t x = 0; x < tile.width; ++x) {
              *to_pixel++ = (y * image.extent.out[2] + x) * product.out_channels;
            }
          }
        }
      }
      if (count == 1) {
        tiles.multiply(jobs[0], from, to);
        continue;
      }
      for (int64_t block = from; block < to; block += 2) {
        for (int64_t i = 0; i < count; ++i) {
          tiles.multiply(jobs[i], block, std::min(to, block + 2));
          jobs[i].read_ahead += jobs[i].read_step * product.rows;
          jobs[i].write_ahead += jobs[i].write_step * product.rows;
        }
      }
    }
  }
};

const float* packed_weight(const PointwiseWeight& weight, int64_t rows, Tensor& kept) {
  if (weight.packed != nullptr) {
    kept = row_major(*weight.packed);
    return static_cast<const float*>(kept.data_ptr());
  }
  const int64_t blocks = (weight.out_channels + kBlock - 1) / kBlock;
  float* packed = static_cast<float*>(weight_scratch.get(blocks * rows * kBlock * static_cast<int64_t>(sizeof(float))));
  const Tensor& plain = *weight.plain;
  pack_weight(packed, static_cast<const float*>(plain.data_ptr()), plain.stride(0), plain.stride(1),
              weight.out_channels, rows);
  return packed;
}

}  // namespace

bool pointwise_last(const Problem& problem, const Tensor& x, const Tensor& shift, const PointwiseWeight& weight,
                    const Addends& addends, const Tensor& output) {
  if (!applies(problem, x)) return false;
  const std::shared_ptr<const BlockPlan> plan =
      remembered<BlockPlan>(problem, shift, [&] { return plan_blocks(problem, split_shifts<float>(problem, shift)); });
  if (!plan->fits) return false;
  const Extent& extent = problem.extent;
  const int64_t out_channels = weight.out_channels, out_pixels = extent.out_pixels();
  if (problem.batch * out_pixels * out_channels == 0) return true;

  Product product{};
  Tensor kept_weight = x, kept_residual = x;
  product.weight = packed_weight(weight, problem.rows, kept_weight);
  product.rows = problem.rows;
  product.out_channels = out_channels;
  product.output = static_cast<float*>(output.data_ptr());
  const int64_t panels = (out_channels + kBlock - 1) / kBlock;
  if (addends.bias.has_value()) {
    float* bias = static_cast<float*>(bias_scratch.get(panels * kBlock * static_cast<int64_t>(sizeof(float))));
    const float* from = static_cast<const float*>(addends.bias->data_ptr());
    std::fill(std::copy(from, from + out_channels, bias), bias + panels * kBlock, 0.0f);
    product.epilogue.bias = bias;
  }
  if (addends.residual.has_value()) {
    kept_residual = in_problem_format(problem, *addends.residual);
    product.epilogue.residual = static_cast<const float*>(kept_residual.data_ptr());
  }
  product.epilogue.relu = addends.relu;

  const Tiles& loops = tiles();
  product.panel_pixels = loops.pixels;
  const Grid grid(extent, loops.pixels);
  const Image image{static_cast<const float*>(x.data_ptr()), problem.channels, extent};
  const Layer layer{*plan, grid, image, extent.pixels() * problem.channels, out_pixels * out_channels, product, loops};
  const int64_t all = problem.batch * grid.count();
  const int64_t threads = static_cast<int64_t>(torch::stable::get_num_threads());
  // Fewer multiply-adds than this are not worth another thread.
  constexpr int64_t kWork = 1 << 19;
  const int64_t work = loops.pixels * problem.rows * out_channels;
  const int64_t pairs = (panels + 1) / 2;
  if (all < 4 * threads && pairs >= threads) {
    // Too few tiles to share out evenly: every thread samples all of them and makes its own output channels.
    torch::stable::parallel_for(0, pairs, std::max<int64_t>(1, kWork * pairs / (work * all + 1)),
                                [&](int64_t begin, int64_t end) {
                                  layer.run(0, all, 2 * begin, std::min(panels, 2 * end));
                                });
  } else {
    torch::stable::parallel_for(0, all, std::max<int64_t>(1, kWork / (work + 1)),
                                [&](int64_t begin, int64_t end) { layer.run(begin, end, 0, panels); });
  }
  return true;
}

}  // namespace asl
