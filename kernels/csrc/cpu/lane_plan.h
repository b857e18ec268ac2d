// Cuts the rows of a problem into blocks of as many as a vector has lanes, and lays out the taps of each.
#pragma once

#include <type_traits>
#include <vector>

#include "../problem.h"
#include "../rows.h"
#include "lanes.h"

namespace asl {

template <typename A>
struct LaneBlock {
  int count;                // rows of this block
  const int64_t* rows;      // their numbers, ascending by one
  const int64_t* channels;  // and the channels that they read
  LaneTaps<A> taps;
};

template <typename A>
class LanePlan {
 public:
  enum class Kind {
    sample,
    sample_and_slopes,  // where the shift's gradient is wanted
    adjoint,            // at stride 1: the output is read at the negated offsets; `extent` is the image's as ever
  };
  LanePlan(const Problem& problem, const std::vector<RowShift<A>>& shifts, int lanes, Kind kind);
  // The blocks point into this plan.
  LanePlan(const LanePlan&) = delete;
  LanePlan& operator=(const LanePlan&) = delete;

  const std::vector<LaneBlock<A>>& blocks() const { return blocks_; }
  // Of the image that the taps read and the one they write.
  const Extent& extent() const { return extent_; }
  // Elements that the loops need for any of the blocks beside the tiles.
  int64_t scratch() const { return scratch_; }
  // False where a line of the output spans so much more than the image that its scratch memory, which grows with the
  // span, would be beyond all proportion to both; the loops over pixels need none.
  bool fits() const { return scratch_ <= kMostScratch / static_cast<int64_t>(sizeof(A)); }

 private:
  static constexpr int64_t kMostScratch = int64_t{1} << 28;  // bytes: a line of some hundred thousand pixels

  Extent extent_;
  std::vector<int64_t> rows_;
  std::vector<LaneTap<A>> taps_;
  std::vector<LaneBlock<A>> blocks_;
  int64_t scratch_ = 0;
};

// Where the loops read or write a block's lanes: pixel after pixel, `step` elements apart.
template <typename A>
struct LaneView {
  A* data;
  int64_t step;
};

// Points the view into the image itself where whole vectors of a block's lanes lie side by side in it.
template <typename T, typename A>
bool lies_open(const LaneImage& where, T* image, int lanes, LaneView<A>& view) {
  if constexpr (std::is_same_v<T, A>) {
    if (!where.last || where.count != lanes) return false;
    for (int lane = 1; lane < lanes; ++lane) {
      if (where.channel[lane] != where.channel[0] + lane) return false;
    }
    view = {image + where.channel[0], where.channels};
    return true;
  }
  return false;
}

// Stride 1 and an output of the image's size.
bool keeps_size(const Problem& problem);

// Whether the loops over lanes serve the problem better than those over pixels: always but for planes at stride 1 that
// keep their size and have no fewer pixels than `small_plane`, where to begin a plane costs less than to work on it.
bool wants_lanes(const Problem& problem, int64_t small_plane);

}  // namespace asl
