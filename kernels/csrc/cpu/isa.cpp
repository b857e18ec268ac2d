// Chooses the copy of the inner loops that this machine can run.
#include "loops.h"
#include "plane_tiles.h"
#include "tile_isa.h"

#include <cstdlib>
#include <cstring>

namespace asl {

#define ASL_DECLARE(isa)                           \
  extern const Loops<float> float_loops_##isa;     \
  extern const Loops<double> double_loops_##isa;   \
  extern const Loops<BFloat16> bfloat16_loops_##isa;
ASL_DECLARE(base)
#ifdef ASL_X86_LEVELS
ASL_DECLARE(v3)
ASL_DECLARE(v4)
#endif

namespace {

enum class Isa { base, v3, v4 };

Isa detect() {
#ifdef ASL_X86_LEVELS
  __builtin_cpu_init();
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
                  __builtin_cpu_supports("bmi2");
  const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512vl");
  // Lets tests reach the loops of lesser machines.
  const char* most = std::getenv("ASLCONVERT_MAX_ISA");
  if (most != nullptr && std::strcmp(most, "x86-64") == 0) return Isa::base;
  if (most != nullptr && std::strcmp(most, "x86-64-v3") == 0) return v3 ? Isa::v3 : Isa::base;
  return v4 ? Isa::v4 : v3 ? Isa::v3 : Isa::base;
#else
  return Isa::base;
#endif
}

const Isa kIsa = detect();

}  // namespace

const char* isa_name() {
#ifdef ASL_X86_LEVELS
  return kIsa == Isa::v4 ? "x86-64-v4" : kIsa == Isa::v3 ? "x86-64-v3" : "x86-64";
#else
  return "generic";
#endif
}

const Tiles& tiles() {
  // A tile is a whole number of pieces of the product (tile_multiply.cpp).
#ifdef ASL_X86_LEVELS
  static const Tiles chosen = kIsa == Isa::v4   ? Tiles{14, tile_sample_v4, tile_multiply_v4}
                              : kIsa == Isa::v3 ? Tiles{12, tile_sample_v3, tile_multiply_v3}
                                                : Tiles{12, tile_sample_base, tile_multiply_base};
#else
  static const Tiles chosen{12, tile_sample_base, tile_multiply_base};
#endif
  return chosen;
}

#ifdef ASL_X86_LEVELS
extern const PlaneTiles plane_tiles_v4;
const PlaneTiles* plane_tiles() { return kIsa == Isa::v4 ? &plane_tiles_v4 : nullptr; }

extern const PairTiles pair_tiles_v4;
const PairTiles* pair_tiles() {
  static const bool there = kIsa == Isa::v4 && __builtin_cpu_supports("avx512vnni");
  return there ? &pair_tiles_v4 : nullptr;
}
#else
const PlaneTiles* plane_tiles() { return nullptr; }
const PairTiles* pair_tiles() { return nullptr; }
#endif

#ifdef ASL_X86_LEVELS
#define ASL_CHOOSE(type, name)                                                                           \
  template <>                                                                                            \
  const Loops<type>& loops<type>() {                                                                     \
    return kIsa == Isa::v4 ? name##_loops_v4 : kIsa == Isa::v3 ? name##_loops_v3 : name##_loops_base; \
  }
#else
#define ASL_CHOOSE(type, name)       \
  template <>                        \
  const Loops<type>& loops<type>() { \
    return name##_loops_base;        \
  }
#endif
ASL_CHOOSE(float, float)
ASL_CHOOSE(double, double)
ASL_CHOOSE(BFloat16, bfloat16)

}  // namespace asl
