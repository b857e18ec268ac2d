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

// window[i] = row[column + i] for i in [0, WIDTH), 0 outside the row of `size` pixels.
// V > 1: row is aligned to V elements and size a multiple of V, so that each vector lies inside or outside as a whole.
template <int V, int WIDTH, typename T>
__device__ __forceinline__ void load_window(compute_t<T> (&window)[WIDTH], const T* row, int column, int size) {
  if constexpr (V == 1) {
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) {
      const bool inside = static_cast<unsigned>(column + i) < static_cast<unsigned>(size);
      window[i] = inside ? widened(__ldg(row + column + i)) : compute_t<T>(0);
    }
  } else {
    using W = typename Word<T>::type;
    constexpr int kElements = Word<T>::kElements, kWords = V / kElements;
    constexpr int kVectors = (V - 1 + WIDTH + V - 1) / V, kAll = kVectors * kWords;
    // One word more, so that the half-word shift below may look past the last.
    W words[kAll + 1];
    const int skip = column & (V - 1);
    const int first = column - skip;
    words[kAll] = W(0);
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int at = first + i * V;
      // The last vector holds nothing that is needed unless the run starts late in the first.
      if (static_cast<unsigned>(at) < static_cast<unsigned>(size) && i * V < skip + WIDTH) {
        load_words<T, kWords>(words + i * kWords, row + at);
      } else {
#pragma unroll
        for (int j = 0; j < kWords; ++j) words[i * kWords + j] = W(0);
      }
    }
    drop_words<kWords / 2>(words, skip / kElements);
    if constexpr (kElements == 1) {
#pragma unroll
      for (int i = 0; i < WIDTH; ++i) {
        if constexpr (sizeof(T) == 8) {
          window[i] = words[i];
        } else {
          window[i] = __uint_as_float(words[i]);
        }
      }
    } else {
      const unsigned bits = (skip & 1) * 16;
#pragma unroll
      for (int i = 0; i < (WIDTH + 1) / 2; ++i) {
        float pair[2];
        unpack(__funnelshift_r(words[i], words[i + 1], bits), pair, static_cast<const T*>(nullptr));
        window[2 * i] = pair[0];
        if (2 * i + 1 < WIDTH) window[2 * i + 1] = pair[1];
      }
    }
  }
}

}  // namespace asl::cuda
