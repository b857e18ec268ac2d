// The forward op: every output plane is one source plane read through at most 2^D taps.
#include "../ops.h"

#include <torch/csrc/stable/ops.h>

#include "../problem.h"
#include "../rows.h"
#include "dispatch.h"
#include "loops.h"

namespace asl {

Tensor active_shift(Tensor x, Tensor shift, std::optional<Tensor> source, std::vector<int64_t> stride,
                    std::vector<int64_t> delta) {
  const Problem problem = check(x, shift, source, stride, delta);
  const Tensor input = row_major(x);
  Tensor output = empty_output(problem, x, problem.rows, false);
  for_type(x.scalar_type(), [&](auto tag) {
    using T = decltype(tag);
    using A = compute_t<T>;
    const std::vector<Taps<A>> taps = sample_taps(split_shifts<A>(problem, shift));
    const Loops<T>& loop = loops<T>();
    const MaskTable<A> masks(problem.extent, taps, 0, loop.masked_loads);
    const T* from = static_cast<const T*>(input.data_ptr());
    T* to = static_cast<T*>(output.data_ptr());
    const int64_t pixels = problem.extent.pixels(), out_pixels = problem.extent.out_pixels();
    const auto plane_of = [&](int64_t item) {
      return from + (item / problem.rows * problem.channels + problem.source[item % problem.rows]) * pixels;
    };
    torch::stable::parallel_for(0, problem.batch * problem.rows, grain(out_pixels), [&](int64_t begin, int64_t end) {
      for (int64_t item = begin; item < end; ++item) {
        loop.sample(to + item * out_pixels, plane_of(item), taps[item % problem.rows], problem.extent, masks.view(), 0,
                    out_pixels, item + 1 < end ? plane_of(item + 1) : nullptr);
      }
    });
  });
  return to_problem_format(problem, output);
}

}  // namespace asl
