// A tensor on plain memory, behind the handles that the kernels hold.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <torch/csrc/inductor/aoti_torch/c/shim.h>

namespace shims {

struct Plain {
  void* data;
  std::shared_ptr<unsigned char[]> owned;
  std::vector<int64_t> sizes, strides;
  int32_t dtype;  // torch's ScalarType

  int64_t numel() const;
  bool is_contiguous() const;
};

// How many threads the kernels are told there are.
extern int threads;

size_t size_of(int32_t dtype);
Plain* plain(AtenTensorHandle handle);
AtenTensorHandle handle(Plain* tensor);

}  // namespace shims
