// Runs the CPU ops on problems from a file and writes what they give: driver <problems> <results>.
//
// A file is a row of little-endian 64-bit integers and raw memory: for each problem its op, its threads, and its
// arguments in the op's order, each with a leading kind (see Reader::tensor and Reader::numbers).
#include <cstdio>
#include <cstdlib>
#include <stdexcept>

#include "../../../kernels/csrc/ops.h"
#include "shims.h"

namespace {

using torch::stable::Tensor;

class Reader {
 public:
  explicit Reader(const char* path) : file_(std::fopen(path, "rb")) {
    if (file_ == nullptr) throw std::runtime_error("cannot open the problems");
  }
  ~Reader() { std::fclose(file_); }

  bool more() {
    const int next = std::fgetc(file_);
    if (next == EOF) return false;
    std::ungetc(next, file_);
    return true;
  }
  int64_t number() {
    int64_t value;
    bytes(&value, sizeof(value));
    return value;
  }
  std::vector<int64_t> numbers() {
    std::vector<int64_t> values(number());
    for (int64_t& value : values) value = number();
    return values;
  }
  // dtype (-1 where there is none), sizes, strides, elements of memory, the memory.
  std::optional<Tensor> maybe() {
    const int64_t dtype = number();
    if (dtype < 0) return std::nullopt;
    auto* made = new shims::Plain{nullptr, nullptr, numbers(), {}, static_cast<int32_t>(dtype)};
    made->strides = numbers();
    const size_t size = number() * shims::size_of(made->dtype);
    made->owned.reset(new unsigned char[size]);
    made->data = made->owned.get();
    bytes(made->data, size);
    return Tensor(shims::handle(made));
  }
  Tensor tensor() { return maybe().value(); }

 private:
  void bytes(void* to, size_t count) {
    if (std::fread(to, 1, count, file_) != count) throw std::runtime_error("the problems end early");
  }
  std::FILE* file_;
};

void write(std::FILE* file, const Tensor& tensor) {
  const shims::Plain& plain = *shims::plain(tensor.get());
  const auto put = [&](int64_t value) { std::fwrite(&value, sizeof(value), 1, file); };
  const auto put_all = [&](const std::vector<int64_t>& values) {
    put(static_cast<int64_t>(values.size()));
    for (int64_t value : values) put(value);
  };
  put(plain.dtype);
  put_all(plain.sizes);
  put_all(plain.strides);
  std::fwrite(plain.data, shims::size_of(plain.dtype), plain.numel(), file);
}

void run(Reader& in, std::FILE* out) {
  const int64_t op = in.number();
  shims::threads = static_cast<int>(in.number());
  if (op == 0) {
    const Tensor x = in.tensor(), shift = in.tensor();
    const auto source = in.maybe();
    const auto stride = in.numbers(), delta = in.numbers();
    write(out, asl::active_shift(x, shift, source, stride, delta));
  } else if (op == 1) {
    const Tensor grad = in.tensor(), x = in.tensor(), shift = in.tensor();
    const auto source = in.maybe();
    const auto stride = in.numbers(), delta = in.numbers();
    const auto [grad_input, grad_shift] = asl::active_shift_backward(grad, x, shift, source, stride, delta, true, true);
    write(out, grad_input);
    write(out, grad_shift);
  } else {
    const Tensor x = in.tensor(), shift = in.tensor();
    const auto source = in.maybe();
    const Tensor weight = in.tensor(), packed = in.tensor();
    const auto bias = in.maybe();
    const auto stride = in.numbers(), delta = in.numbers();
    const bool relu = in.number() != 0;
    const auto residual = in.maybe();
    write(out, asl::shift_pointwise(x, shift, source, weight, bias, stride, delta, relu, residual));
    write(out, asl::shift_pointwise_packed(x, shift, source, packed, weight.size(0), bias, stride, delta, relu,
                                           residual));
  }
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 3) {
    std::fprintf(stderr, "usage: %s problems results\n", arguments[0]);
    return 2;
  }
  std::FILE* out = std::fopen(arguments[2], "wb");
  try {
    Reader in(arguments[1]);
    while (in.more()) run(in, out);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return std::fclose(out);
}
