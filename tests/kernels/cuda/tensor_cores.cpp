// Tensor-core instructions as warp collectives, with the fragment layouts of the PTX manual.
#include "emulate.h"
#include "watch.h"

namespace emulate {
namespace {

constexpr uint32_t kAll = 0xffffffffu;

float sixteen_bits(uint32_t word, int high, bool bfloat16) {
  const uint16_t bits = static_cast<uint16_t>(word >> (16 * high));
  return bfloat16 ? __bfloat162float(__nv_bfloat16{bits}) : __half2float(__half{bits});
}

// The tensor core reads the upper 19 bits of a tf32 operand.
float tf32(uint32_t word) { return __uint_as_float(word & ~0x1fffu); }

// c[row, column] for the four places that this lane holds; a and b give one operand each.
template <typename A, typename B>
void multiply(float* c, int depth, const A& a, const B& b) {
  for (int i = 0; i < 4; ++i) {
    const int row = lane() / 4 + (i >= 2 ? 8 : 0), column = lane() % 4 * 2 + i % 2;
    double sum = c[i];
    for (int k = 0; k < depth; ++k) sum += static_cast<double>(a(row, k)) * b(k, column);
    c[i] = static_cast<float>(sum);
  }
}

const Words* operands(const uint32_t* a, const uint32_t* b) {
  return exchange(kAll, Words{{a[0], a[1], a[2], a[3], b[0], b[1]}});
}

}  // namespace

void mma_16816(float* c, const uint32_t* a, const uint32_t* b, bool bfloat16) {
  const Words* all = operands(a, b);
  multiply(
      c, 16,
      [&](int row, int k) {
        const uint32_t word = all[row % 8 * 4 + k % 8 / 2].word[row / 8 + 2 * (k / 8)];
        return sixteen_bits(word, k % 2, bfloat16);
      },
      [&](int k, int n) { return sixteen_bits(all[n * 4 + k % 8 / 2].word[4 + k / 8], k % 2, bfloat16); });
}

void mma_1688_tf32(float* c, const uint32_t* a, const uint32_t* b) {
  const Words* all = operands(a, b);
  multiply(
      c, 8, [&](int row, int k) { return tf32(all[row % 8 * 4 + k % 4].word[row / 8 + 2 * (k / 4)]); },
      [&](int k, int n) { return tf32(all[n * 4 + k % 4].word[4 + k / 4]); });
}

void ldmatrix(uint32_t* result, const void* row, int count, bool transposed) {
  Words mine{};
  std::memcpy(mine.word, &row, sizeof(row));
  const Words* all = exchange(kAll, mine);
  for (int m = 0; m < count; ++m) {
    uint16_t pair[2];
    for (int i = 0; i < 2; ++i) {
      const int from = transposed ? lane() % 4 * 2 + i : lane() / 4;
      const int column = transposed ? lane() / 4 : lane() % 4 * 2 + i;
      const char* address;
      std::memcpy(&address, all[m * 8 + from].word, sizeof(address));
      if (reinterpret_cast<uintptr_t>(address) % 16 != 0) fail("a misaligned ldmatrix row");
      watch_read(address + 2 * column, 2, __builtin_return_address(0));
      std::memcpy(&pair[i], address + 2 * column, 2);
    }
    result[m] = pair[0] | static_cast<uint32_t>(pair[1]) << 16;
  }
}

}  // namespace emulate
