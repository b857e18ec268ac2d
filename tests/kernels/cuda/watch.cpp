// Checks every access of a kernel. Kernels are compiled with -fsanitize=thread, whose calls end here instead of in its
// library; and with parts of -fsanitize=undefined, whose reports end here as well.
#include "watch.h"

#include <algorithm>
#include <cstring>
#include <dlfcn.h>
#include <link.h>
#include <vector>

namespace emulate {
namespace {

struct Cell {
  Access writer{}, readers[2]{};
  bool pending = false;
};

struct Region {
  std::string name;
  uintptr_t begin, end;
  bool writable, shared;
  std::vector<Cell> cells;
};

std::vector<Region> regions;
uintptr_t constants[2], host_stack;

// Static shared memory lies among this library's own variables, constant tables in its read-only segments.
void find_segments() {
  static bool found = false;
  if (found) return;
  found = true;
  Dl_info here;
  dladdr(reinterpret_cast<const void*>(&find_segments), &here);
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* base) {
        if (reinterpret_cast<void*>(info->dlpi_addr) != base) return 0;
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          const ElfW(Phdr) & header = info->dlpi_phdr[i];
          if (header.p_type != PT_LOAD) continue;
          const uintptr_t begin = info->dlpi_addr + header.p_vaddr, end = begin + header.p_memsz;
          if (header.p_flags & PF_W) {
            regions.push_back({"static shared memory", begin, end, true, true, std::vector<Cell>(header.p_memsz)});
          } else if (!(header.p_flags & PF_X)) {
            // The read-only data follow the code; the headers before it are nobody's.
            constants[0] = begin, constants[1] = end;
          }
        }
        return 1;
      },
      here.dli_fbase);
}

std::string code(const void* caller) {
  Dl_info info;
  char text[32] = "?";
  if (dladdr(caller, &info) != 0) {
    std::snprintf(text, sizeof(text), "+0x%zx",
                  static_cast<size_t>(static_cast<const char*>(caller) - static_cast<char*>(info.dli_fbase)) - 1);
  }
  return text;
}

bool same_block(const Access& a, const Access& b) { return a.launch == b.launch && a.block == b.block; }

// Whether nothing orders the earlier access before this one.
bool races(const Access& before, const Access& now) {
  if (before.launch != now.launch || (before.block == now.block && before.thread == now.thread)) return false;
  if (before.block != now.block) return true;
  if (before.barriers < now.barriers) return false;
  return before.thread / 32 != now.thread / 32 || before.warp_barriers >= now.warp_barriers;
}

enum class Kind { read, write, copy_starts, copy_ends };

void check(Cell& cell, bool shared, Kind kind, const Access& now, const std::string& (*describe)()) {
  if (shared && !same_block(cell.writer, now)) cell = Cell{};
  const auto conflict = [&](const Access& other, const char* what) {
    fail(std::string("race: ") + what + " thread " + std::to_string(other.thread) + " of block " +
         std::to_string(other.block) + " with no barrier between, " + describe());
  };
  if (cell.pending && kind != Kind::copy_ends) fail("cp.async data touched before the wait, " + describe());
  if (kind == Kind::read) {
    if (shared && cell.writer.launch == 0) fail("read of shared memory that nobody wrote, " + describe());
    if (races(cell.writer, now)) conflict(cell.writer, "read after a write of");
    const bool mine = cell.readers[0].launch == now.launch && cell.readers[0].block == now.block &&
                      cell.readers[0].thread == now.thread;
    if (!mine) cell.readers[1] = cell.readers[0];
    cell.readers[0] = now;
    return;
  }
  if (kind != Kind::copy_ends) {
    if (races(cell.writer, now)) conflict(cell.writer, "write after a write of");
    for (const Access& reader : cell.readers) {
      if (races(reader, now)) conflict(reader, "write after a read of");
    }
  }
  cell.writer = now;
  cell.pending = kind == Kind::copy_starts;
}

std::string description;

void access(const void* address, size_t bytes, Kind kind, bool aligned, const void* caller) {
  const Access* now = self();
  if (now == nullptr || on_own_stack(address)) return;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(address), end = begin + bytes;
  const bool reads = kind == Kind::read;
  const auto describe = [&](const std::string& what) {
    return (reads ? "reading " : "writing ") + std::to_string(bytes) + " bytes of " + what + " at " + code(caller);
  };
  for (Region& region : regions) {
    if (begin < region.begin || begin >= region.end) continue;
    description = describe(region.name + ", byte " + std::to_string(begin - region.begin) + " of " +
                           std::to_string(region.end - region.begin));
    if (end > region.end) fail("out of bounds, " + description);
    if (!reads && !region.writable) fail("write to constant memory, " + description);
    if (aligned && begin % bytes != 0) fail("misaligned, " + description);
    for (uintptr_t at = begin; at < end; ++at) {
      check(region.cells[at - region.begin], region.shared, kind, *now,
            []() -> const std::string& { return description; });
    }
    return;
  }
  constexpr uintptr_t kArguments = 1 << 16;
  if (reads && ((begin >= constants[0] && end <= constants[1]) || (begin >= host_stack && begin < host_stack + kArguments)))
    return;
  description = "out of bounds, " + describe("memory of nobody");
  for (const Region& region : regions) {
    const bool before = begin < region.begin && region.begin - begin <= 4096;
    if (before || (begin >= region.end && begin - region.end < 4096)) {
      description += ", " + std::to_string(before ? region.begin - begin : begin - region.end) + " bytes " +
                     (before ? "before " : "past the end of ") + region.name;
    }
  }
  fail(description);
}

}  // namespace

void watch_read(const void* address, size_t bytes, const void* caller) {
  access(address, bytes, Kind::read, false, caller);
}

void watch_copy(void* address, size_t bytes, bool arrived, const void* caller) {
  access(address, bytes, arrived ? Kind::copy_ends : Kind::copy_starts, false, caller);
}

void watch_shared(void* address, size_t bytes, const void* host_frame) {
  find_segments();
  host_stack = reinterpret_cast<uintptr_t>(host_frame);
  const uintptr_t begin = reinterpret_cast<uintptr_t>(address);
  std::erase_if(regions, [](const Region& region) { return region.name == "dynamic shared memory"; });
  regions.push_back({"dynamic shared memory", begin, begin + bytes, true, true, std::vector<Cell>(bytes)});
}

}  // namespace emulate

using emulate::access;
using emulate::Kind;

extern "C" {

void emulate_begin(uint64_t seed) {
  emulate::seed(seed);
  std::erase_if(emulate::regions, [](const emulate::Region& region) { return !region.shared; });
}

void emulate_buffer(const char* name, void* address, size_t bytes, int writable) {
  const uintptr_t begin = reinterpret_cast<uintptr_t>(address);
  emulate::regions.push_back({name, begin, begin + bytes, writable != 0, false, std::vector<emulate::Cell>(bytes)});
}

#define ASL_WATCH(bytes)                                                                                         \
  void __tsan_read##bytes(void* p) { access(p, bytes, Kind::read, true, __builtin_return_address(0)); }            \
  void __tsan_write##bytes(void* p) { access(p, bytes, Kind::write, true, __builtin_return_address(0)); }          \
  void __tsan_unaligned_read##bytes(void* p) { access(p, bytes, Kind::read, false, __builtin_return_address(0)); } \
  void __tsan_unaligned_write##bytes(void* p) { access(p, bytes, Kind::write, false, __builtin_return_address(0)); }
ASL_WATCH(1)
ASL_WATCH(2)
ASL_WATCH(4)
ASL_WATCH(8)
ASL_WATCH(16)
void __tsan_read_range(void* p, size_t bytes) { access(p, bytes, Kind::read, false, __builtin_return_address(0)); }
void __tsan_write_range(void* p, size_t bytes) { access(p, bytes, Kind::write, false, __builtin_return_address(0)); }
void __tsan_vptr_update(void*, void*) {}
void __tsan_vptr_read(void*) {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_init() {}

// The record of every check starts with the place in the source.
struct Place {
  const char* file;
  uint32_t line, column;
};
static void undefined(const char* what, const Place* place) {
  const std::string text = std::string(what) + " at " + (place->file == nullptr ? "?" : place->file) + ":" +
                           std::to_string(place->line);
  if (emulate::self() != nullptr) emulate::fail(text);
}
void __ubsan_handle_type_mismatch_v1(Place* place, uintptr_t) { undefined("misaligned address", place); }
void __ubsan_handle_out_of_bounds(Place* place, uintptr_t) { undefined("index past the array", place); }
void __ubsan_handle_add_overflow(Place* place, uintptr_t, uintptr_t) { undefined("overflow of +", place); }
void __ubsan_handle_sub_overflow(Place* place, uintptr_t, uintptr_t) { undefined("overflow of -", place); }
void __ubsan_handle_mul_overflow(Place* place, uintptr_t, uintptr_t) { undefined("overflow of *", place); }
void __ubsan_handle_negate_overflow(Place* place, uintptr_t) { undefined("overflow of negation", place); }
void __ubsan_handle_shift_out_of_bounds(Place* place, uintptr_t, uintptr_t) { undefined("shift too far", place); }
void __ubsan_handle_divrem_overflow(Place* place, uintptr_t, uintptr_t) { undefined("division by zero", place); }
void __ubsan_handle_float_cast_overflow(Place* place, uintptr_t) { undefined("float out of the integer's range", place); }

}  // extern "C"
