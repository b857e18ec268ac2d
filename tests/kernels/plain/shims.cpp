// The part of torch's C interface that the CPU kernels call, on plain memory: lets the kernels run, unchanged and with
// torch's own headers, for a processor that no torch is installed for.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <vector>

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>
#include <torch/csrc/stable/c/shim.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "shims.h"

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
namespace values = torch::stable::detail;

namespace shims {

int threads = 1;

size_t size_of(int32_t dtype) {
  switch (static_cast<ScalarType>(dtype)) {
    case ScalarType::Double:
    case ScalarType::Long:
      return 8;
    case ScalarType::Float:
      return 4;
    default:
      return 2;
  }
}

Plain* plain(AtenTensorHandle handle) { return reinterpret_cast<Plain*>(handle); }
AtenTensorHandle handle(Plain* tensor) { return reinterpret_cast<AtenTensorHandle>(tensor); }

Plain* make(const std::vector<int64_t>& sizes, int32_t dtype, MemoryFormat format) {
  auto* made = new Plain{nullptr, nullptr, sizes, std::vector<int64_t>(sizes.size()), dtype};
  std::vector<size_t> order;  // the fastest axis first
  for (size_t d = sizes.size(); d-- > 0;) order.push_back(d);
  if (format == MemoryFormat::ChannelsLast || format == MemoryFormat::ChannelsLast3d) {
    order = {1};
    for (size_t d = sizes.size(); d-- > 2;) order.push_back(d);
    order.push_back(0);
  }
  int64_t step = 1;
  for (size_t d : order) {
    made->strides[d] = step;
    step *= std::max<int64_t>(sizes[d], 1);
  }
  const size_t bytes = made->numel() * size_of(dtype);
  // Exactly as large as the tensor, so that a watcher sees what goes beyond; filled with NaN unless it shall see what
  // was never written.
  made->owned.reset(new unsigned char[bytes]);
  made->data = made->owned.get();
  if (std::getenv("SHIMS_RAW") == nullptr) std::memset(made->data, 0xff, bytes);
  return made;
}

int64_t Plain::numel() const {
  int64_t count = 1;
  for (int64_t size : sizes) count *= size;
  return count;
}

bool Plain::is_contiguous() const {
  int64_t expected = 1;
  for (size_t d = sizes.size(); d-- > 0; expected *= sizes[d]) {
    if (sizes[d] != 1 && strides[d] != expected) return numel() == 0;
  }
  return true;
}

void copy(Plain& target, const Plain& source) {
  const size_t size = size_of(source.dtype);
  std::vector<int64_t> at(source.sizes.size(), 0);
  for (int64_t left = source.numel(); left > 0; --left) {
    int64_t to_offset = 0, from_offset = 0;
    for (size_t d = 0; d < at.size(); ++d) {
      to_offset += at[d] * target.strides[d];
      from_offset += at[d] * source.strides[d];
    }
    std::memcpy(static_cast<char*>(target.data) + to_offset * size,
                static_cast<const char*>(source.data) + from_offset * size, size);
    for (size_t d = at.size(); d-- > 0;) {
      if (++at[d] < source.sizes[d]) break;
      at[d] = 0;
    }
  }
}

double value(const Plain& tensor, int64_t offset) {
  switch (static_cast<ScalarType>(tensor.dtype)) {
    case ScalarType::Double:
      return static_cast<const double*>(tensor.data)[offset];
    case ScalarType::Float:
      return static_cast<const float*>(tensor.data)[offset];
    default: {
      const uint32_t bits = static_cast<uint32_t>(static_cast<const uint16_t*>(tensor.data)[offset]) << 16;
      float wide;
      std::memcpy(&wide, &bits, 4);
      return wide;
    }
  }
}

void put(Plain& tensor, int64_t offset, double number) {
  switch (static_cast<ScalarType>(tensor.dtype)) {
    case ScalarType::Double:
      static_cast<double*>(tensor.data)[offset] = number;
      return;
    case ScalarType::Float:
      static_cast<float*>(tensor.data)[offset] = static_cast<float>(number);
      return;
    default: {
      const float narrow = static_cast<float>(number);
      uint32_t bits;
      std::memcpy(&bits, &narrow, 4);
      static_cast<uint16_t*>(tensor.data)[offset] =
          static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
    }
  }
}

}  // namespace shims

using shims::handle;
using shims::plain;
using List = std::vector<StableIValue>;

extern "C" {

#define SHIM_CODE(name, code) \
  int32_t name() { return static_cast<int32_t>(code); }
#define SHIM_DTYPE(name, type) SHIM_CODE(aoti_torch_dtype_##name, ScalarType::type)
SHIM_DTYPE(float32, Float)
SHIM_DTYPE(float64, Double)
SHIM_DTYPE(float16, Half)
SHIM_DTYPE(bfloat16, BFloat16)
SHIM_DTYPE(int8, Char)
SHIM_DTYPE(int16, Short)
SHIM_DTYPE(int32, Int)
SHIM_DTYPE(int64, Long)
SHIM_DTYPE(uint8, Byte)
SHIM_DTYPE(uint16, UInt16)
SHIM_DTYPE(uint32, UInt32)
SHIM_DTYPE(uint64, UInt64)
SHIM_DTYPE(bool, Bool)
SHIM_DTYPE(complex32, ComplexHalf)
SHIM_DTYPE(complex64, ComplexFloat)
SHIM_DTYPE(complex128, ComplexDouble)
SHIM_DTYPE(float8_e4m3fn, Float8_e4m3fn)
SHIM_DTYPE(float8_e4m3fnuz, Float8_e4m3fnuz)
SHIM_DTYPE(float8_e5m2, Float8_e5m2)
SHIM_DTYPE(float8_e5m2fnuz, Float8_e5m2fnuz)
SHIM_CODE(torch_dtype_float8_e8m0fnu, ScalarType::Float8_e8m0fnu)
SHIM_CODE(torch_dtype_float4_e2m1fn_x2, ScalarType::Float4_e2m1fn_x2)
SHIM_CODE(aoti_torch_device_type_cpu, 0)
SHIM_CODE(aoti_torch_device_type_cuda, 1)
SHIM_CODE(aoti_torch_device_type_meta, 2)
SHIM_CODE(aoti_torch_device_type_xpu, 3)
SHIM_CODE(aoti_torch_device_type_mps, 4)
SHIM_CODE(aoti_torch_device_type_privateuse1, 5)
SHIM_CODE(aoti_torch_layout_strided, 0)
SHIM_CODE(aoti_torch_layout_sparse_coo, 1)
SHIM_CODE(aoti_torch_layout_sparse_csr, 2)
SHIM_CODE(aoti_torch_layout_sparse_csc, 3)
SHIM_CODE(aoti_torch_layout_sparse_bsr, 4)
SHIM_CODE(aoti_torch_layout_sparse_bsc, 5)
SHIM_CODE(aoti_torch_layout__mkldnn, 6)
SHIM_CODE(aoti_torch_layout_jagged, 7)
SHIM_CODE(aoti_torch_memory_format_contiguous_format, 0)
SHIM_CODE(aoti_torch_memory_format_preserve_format, 1)
SHIM_CODE(aoti_torch_memory_format_channels_last, 2)
SHIM_CODE(aoti_torch_memory_format_channels_last_3d, 3)

uint64_t aoti_torch_abi_version() { return TORCH_ABI_VERSION; }
size_t aoti_torch_dtype_element_size(int32_t dtype) { return shims::size_of(dtype); }

#define SHIM_GET(name, type, expression)                         \
  AOTITorchError aoti_torch_##name(AtenTensorHandle t, type* out) { \
    *out = expression;                                            \
    return 0;                                                     \
  }
SHIM_GET(get_data_ptr, void*, plain(t)->data)
SHIM_GET(get_dim, int64_t, static_cast<int64_t>(plain(t)->sizes.size()))
SHIM_GET(get_numel, int64_t, plain(t)->numel())
SHIM_GET(get_dtype, int32_t, plain(t)->dtype)
SHIM_GET(get_device_type, int32_t, 0)
SHIM_GET(get_device_index, int32_t, 0)
SHIM_GET(get_sizes, int64_t*, plain(t)->sizes.data())
SHIM_GET(get_strides, int64_t*, plain(t)->strides.data())
SHIM_GET(is_contiguous, bool, plain(t)->is_contiguous())
SHIM_GET(new_tensor_handle, AtenTensorHandle, handle(new shims::Plain(*plain(t))))

AOTITorchError aoti_torch_get_size(AtenTensorHandle t, int64_t d, int64_t* out) {
  *out = plain(t)->sizes.at(d);
  return 0;
}
AOTITorchError aoti_torch_get_stride(AtenTensorHandle t, int64_t d, int64_t* out) {
  *out = plain(t)->strides.at(d);
  return 0;
}
AOTITorchError aoti_torch_delete_tensor_object(AtenTensorHandle t) {
  delete plain(t);
  return 0;
}
// Strides are those of one of the two memory formats, as the kernels ask for no others.
AOTITorchError aoti_torch_empty_strided(int64_t dims, const int64_t* sizes, const int64_t* strides, int32_t dtype,
                                        int32_t, int32_t, AtenTensorHandle* out) {
  const std::vector<int64_t> shape(sizes, sizes + dims), steps(strides, strides + dims);
  const MemoryFormat last = dims == 5 ? MemoryFormat::ChannelsLast3d : MemoryFormat::ChannelsLast;
  shims::Plain* made = shims::make(shape, dtype, MemoryFormat::Contiguous);
  if (made->strides != steps) {
    delete made;
    made = shims::make(shape, dtype, last);
  }
  *out = shims::handle(made);
  return made->strides == steps ? AOTI_TORCH_SUCCESS : AOTI_TORCH_FAILURE;
}
AOTITorchError aoti_torch_create_tensor_from_blob_v2(void* data, int64_t dims, const int64_t* sizes,
                                                     const int64_t* strides, int64_t, int32_t dtype, int32_t, int32_t,
                                                     AtenTensorHandle* out, int32_t, const uint8_t*, int64_t) {
  *out = handle(new shims::Plain{data, nullptr, {sizes, sizes + dims}, {strides, strides + dims}, dtype});
  return 0;
}

AOTITorchError torch_new_list_reserve_size(size_t size, StableListHandle* out) {
  auto* list = new List;
  list->reserve(size);
  *out = reinterpret_cast<StableListHandle>(list);
  return 0;
}
AOTITorchError torch_list_size(StableListHandle list, size_t* size) {
  *size = reinterpret_cast<List*>(list)->size();
  return 0;
}
AOTITorchError torch_list_get_item(StableListHandle list, size_t index, StableIValue* element) {
  *element = reinterpret_cast<List*>(list)->at(index);
  return 0;
}
AOTITorchError torch_list_push_back(StableListHandle list, StableIValue element) {
  reinterpret_cast<List*>(list)->push_back(element);
  return 0;
}
AOTITorchError torch_delete_list(StableListHandle list) {
  delete reinterpret_cast<List*>(list);
  return 0;
}

AOTITorchError torch_get_num_threads(uint32_t* out) {
  *out = static_cast<uint32_t>(shims::threads);
  return 0;
}
AOTITorchError torch_get_thread_idx(uint32_t* out) {
  *out = 0;
  return 0;
}
// One part after the other, in as many parts as there would be threads.
AOTITorchError torch_parallel_for(int64_t begin, int64_t end, int64_t grain, ParallelFunc function, void* context) {
  if (end <= begin) return 0;
  const int64_t most = (end - begin + std::max<int64_t>(grain, 1) - 1) / std::max<int64_t>(grain, 1);
  const int64_t parts = std::max<int64_t>(1, std::min<int64_t>(most, shims::threads));
  const int64_t step = (end - begin + parts - 1) / parts;
  for (int64_t at = begin; at < end; at += step) function(at, std::min(end, at + step), context);
  return 0;
}

AOTITorchError torch_call_dispatcher(const char* name, const char*, StableIValue* stack, uint64_t) {
  if (std::strcmp(name, "aten::empty") == 0) {
    const auto sizes = values::to<std::vector<int64_t>>(stack[0]);
    const auto dtype = values::to<std::optional<ScalarType>>(stack[1]);
    const auto format = values::to<std::optional<MemoryFormat>>(stack[5]);
    shims::Plain* made =
        shims::make(sizes, static_cast<int32_t>(dtype.value_or(ScalarType::Float)),
                    format.value_or(MemoryFormat::Contiguous));
    stack[0] = values::from(torch::stable::Tensor(handle(made)));
    return 0;
  }
  if (std::strcmp(name, "aten::contiguous") == 0) {
    const auto self = values::to<torch::stable::Tensor>(stack[0]);
    const shims::Plain& source = *plain(self.get());
    shims::Plain* made = shims::make(source.sizes, source.dtype, values::to<MemoryFormat>(stack[1]));
    shims::copy(*made, source);
    stack[0] = values::from(torch::stable::Tensor(handle(made)));
    return 0;
  }
  return 1;
}

AOTITorchError aoti_torch_cpu_mm_out(AtenTensorHandle out, AtenTensorHandle left, AtenTensorHandle right) {
  shims::Plain &y = *plain(out), &a = *plain(left), &b = *plain(right);
  for (int64_t i = 0; i < a.sizes[0]; ++i) {
    for (int64_t j = 0; j < b.sizes[1]; ++j) {
      double sum = 0;
      for (int64_t k = 0; k < a.sizes[1]; ++k) {
        sum += shims::value(a, i * a.strides[0] + k * a.strides[1]) *
               shims::value(b, k * b.strides[0] + j * b.strides[1]);
      }
      shims::put(y, i * y.strides[0] + j * y.strides[1], sum);
    }
  }
  return 0;
}

}  // extern "C"
