// How large a panel of shifted pixels is, and the memory that it lies in.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <new>

namespace asl {

// The product reads a panel of few rows in place: large ones save calls, as long as they stay in the second-level
// cache. One of more rows it packs first, so that the copy must fit there as well; but fewer pixels would starve it.
inline int64_t panel_pixels(int64_t rows, int64_t element_size) {
  constexpr int64_t kInPlace = 128, kBytes = 512 * 1024, kFewest = 192, kMost = 4096;
  // Of 16-bit elements always packed, and shared out among threads as a whole.
  constexpr int64_t kFewestShort = 256, kMostShort = 1024;
  const int64_t fewest = element_size == 2 ? kFewestShort : kFewest, most = element_size == 2 ? kMostShort : kMost;
  if (rows > kInPlace) return fewest;
  return std::clamp(kBytes / (std::max<int64_t>(rows, 1) * element_size), fewest, most);
}

// Memory that a thread keeps between calls: fresh pages would cost more than small layers themselves.
class Scratch {
 public:
  ~Scratch() { std::free(data_); }
  void* get(int64_t bytes) {
    if (bytes > size_) {
      std::free(data_);
      size_ = 0;
      data_ = std::aligned_alloc(64, static_cast<size_t>((bytes + 63) / 64 * 64));
      if (data_ == nullptr) throw std::bad_alloc();
      size_ = bytes;
    }
    return data_;
  }

 private:
  void* data_ = nullptr;
  int64_t size_ = 0;
};

}  // namespace asl
