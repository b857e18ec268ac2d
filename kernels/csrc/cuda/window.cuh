// A run of pixels at any offset from vectors that are aligned in memory.
#pragma once

#include "numeric.cuh"

namespace asl::cuda {

// The 32-bit words (64-bit for double) that a vector's elements are moved in.
template <typename T>
struct Word {
  using type = unsigned;
  static constexpr int kElements = 4 / sizeof(T);
};
template <>
struct Word<double> {
  using type = double;
  static constexpr int kElements = 1;
};

__device__ __forceinline__ void unpack(const unsigned word, float (&out)[2], const __nv_bfloat16*) {
  out[0] = __uint_as_float(word << 16);
  out[1] = __uint_as_float(word & 0xffff0000u);
}
__device__ __forceinline__ void unpack(const unsigned word, float (&out)[2], const __half*) {
#ifdef ASL_EMULATE
  out[0] = __half2float(__half{static_cast<uint16_t>(word)});
  out[1] = __half2float(__half{static_cast<uint16_t>(word >> 16)});
#else
  const float2 both = __half22float2(*reinterpret_cast<const __half2*>(&word));
  out[0] = both.x;
  out[1] = both.y;
#endif
}

template <typename T, int WORDS>
__device__ __forceinline__ void load_words(typename Word<T>::type* words, const T* address) {
  if constexpr (sizeof(T) == 8) {
    static_assert(WORDS <= 2);
    if constexpr (WORDS == 2) {
      const double2 pair = __ldg(reinterpret_cast<const double2*>(address));
      words[0] = pair.x;
      words[1] = pair.y;
    } else {
      words[0] = __ldg(address);
    }
  } else if constexpr (WORDS == 4) {
    const uint4 four = __ldg(reinterpret_cast<const uint4*>(address));
    words[0] = four.x;
    words[1] = four.y;
    words[2] = four.z;
    words[3] = four.w;
  } else if constexpr (WORDS == 2) {
    const uint2 two = __ldg(reinterpret_cast<const uint2*>(address));
    words[0] = two.x;
    words[1] = two.y;
  } else {
    words[0] = __ldg(reinterpret_cast<const unsigned*>(address));
  }
}

// words[i] = words[i + by] for by below 2 * STEP, with every index known to the compiler: the words stay in registers.
template <int STEP, int COUNT, typename W>
__device__ __forceinline__ void drop_words(W (&words)[COUNT], int by) {
  if constexpr (STEP >= 1) {
    if (by & STEP) {
#pragma unroll
      for (int i = 0; i < COUNT - STEP; ++i) words[i] = words[i + STEP];
    }
    drop_words<STEP / 2>(words, by);
  }
}

// A run of WIDTH pixels as it lies in memory. Fetching is apart from opening, so that several runs can be under way.
template <typename T, int V, int WIDTH>
struct Run {
  using W = typename Word<T>::type;
  static constexpr int kElements = Word<T>::kElements, kWords = V / kElements;
  static constexpr int kVectors = (V - 1 + WIDTH + V - 1) / V, kAll = kVectors * kWords;
  W words[kAll];

  // Pixels [column, column + WIDTH) of a row of `size` pixels, 0 outside; all 0 unless `wanted`. The row is aligned to
  // V elements and size a multiple of V, so that each vector lies inside or outside as a whole.
  __device__ __forceinline__ void fetch(const T* row, int column, int size, bool wanted) {
    const int skip = column & (V - 1);
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int at = column - skip + i * V;
#pragma unroll
      for (int j = 0; j < kWords; ++j) words[i * kWords + j] = W(0);
      // The last vector holds nothing that is needed unless the run starts late in the first.
      if (wanted && static_cast<unsigned>(at) < static_cast<unsigned>(size) && i * V < skip + WIDTH) {
        load_words<T, kWords>(words + i * kWords, row + at);
      }
    }
  }

  __device__ __forceinline__ void open(compute_t<T> (&window)[WIDTH], int column) const {
    const int skip = column & (V - 1);
    // One word more, so that the half-word shift below may look past the last.
    W moved[kAll + 1];
#pragma unroll
    for (int i = 0; i < kAll; ++i) moved[i] = words[i];
    moved[kAll] = W(0);
    drop_words<kWords / 2>(moved, skip / kElements);
#pragma unroll
    for (int i = 0; i < WIDTH; i += kElements) {
      if constexpr (kElements == 2) {
        float pair[2];
        unpack(__funnelshift_r(moved[i / 2], moved[i / 2 + 1], (skip & 1) * 16), pair, static_cast<const T*>(nullptr));
        window[i] = pair[0];
        if (i + 1 < WIDTH) window[i + 1] = pair[1];
      } else if constexpr (sizeof(T) == 8) {
        window[i] = moved[i];
      } else {
        window[i] = __uint_as_float(moved[i]);
      }
    }
  }
};

// V elements from an address that is aligned to them; 0 unless wanted.
template <int V, typename T>
__device__ __forceinline__ void load_aligned(compute_t<T> (&values)[V], const T* address, bool wanted) {
  if constexpr (V == 1) {
    values[0] = wanted ? widened(__ldg(address)) : compute_t<T>(0);
  } else {
    const Pack<T, V> pack = wanted ? load_pack<T, V>(address) : Pack<T, V>{};
#pragma unroll
    for (int i = 0; i < V; ++i) values[i] = widened(pack.at[i]);
  }
}

// Without vectors: any column, any size.
template <typename T, int WIDTH>
struct Run<T, 1, WIDTH> {
  compute_t<T> values[WIDTH];

  __device__ __forceinline__ void fetch(const T* row, int column, int size, bool wanted) {
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) {
      const bool inside = wanted && static_cast<unsigned>(column + i) < static_cast<unsigned>(size);
      values[i] = inside ? widened(__ldg(row + column + i)) : compute_t<T>(0);
    }
  }
  __device__ __forceinline__ void open(compute_t<T> (&window)[WIDTH], int) const {
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) window[i] = values[i];
  }
};

}  // namespace asl::cuda
