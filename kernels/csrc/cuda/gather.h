// One gather launch: every output plane is a sum of input planes, each read through the taps of one row of the op.
#pragma once

#include "taps.cuh"

namespace asl::cuda {

// Forward: output plane k is row k, read from plane source[k]. Adjoint (stride 1): output plane c is the sum over the
// rows k that read channel c, each read from plane k of the gradient at the negated offsets.
struct Gather {
  Problem problem;
  const void* in;
  void* out;
  int in_planes, out_planes;
  int in_size[3], out_size[3], step[3];
  bool adjoint;
  const int* readers;  // adjoint with a source: [out_planes + 1] first entry of each channel, then the rows in order

  // The rows that output plane j sums over: entries [first, last) of the list.
  __device__ __forceinline__ void entries(int j, int& first, int& last) const {
    const bool listed = adjoint && readers != nullptr;
    first = listed ? __ldg(readers + j) : j;
    last = listed ? __ldg(readers + j + 1) : j + 1;
  }
  // The row of an entry, its taps and its input plane, which is -1 where the row is not usable.
  template <typename A>
  __device__ __forceinline__ int entry(int at, Taps<A>& taps) const {
    const int k = adjoint && readers != nullptr ? __ldg(readers + out_planes + 1 + at) : at;
    const int channel = read_taps(problem, k, adjoint, taps);
    return adjoint && channel >= 0 ? k : channel;
  }
};

const char* gather_planes(const Gather& gather, int64_t batch, int type, void* stream);
const char* gather_pixels(const Gather& gather, int64_t batch, int type, void* stream);

}  // namespace asl::cuda
