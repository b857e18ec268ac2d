// Runs a kernel's blocks one after another and a block's threads as fibers, both in a seeded random order.
#include "emulate.h"

#include <csetjmp>
#include <map>
#include <memory>
#include <string>
#include <sys/mman.h>
#include <ucontext.h>
#include <vector>

#include "watch.h"

namespace emulate {
namespace {

constexpr size_t kStack = 128 << 10;
constexpr unsigned kMostThreads = 1024;

struct Copy {
  char* to;
  std::vector<char> bytes;
};

struct Fiber {
  ucontext_t start;
  jmp_buf context;
  bool started = false, done = false;
  uint3 index;
  Access self;
  std::vector<std::vector<Copy>> copies;  // committed groups, and the open one last
};

struct Rendezvous {
  uint32_t arrived = 0;
  Words given[32], published[32];
  std::vector<Fiber*> waiting;
};

struct State {
  uint64_t random = 1;
  uint32_t launches = 0;
  dim3 grid, block;
  uint3 block_index;
  std::vector<Fiber> fibers;
  std::vector<Fiber*> ready, at_barrier;
  std::map<std::pair<unsigned, uint32_t>, Rendezvous> warps;  // by warp and mask
  Fiber* current = nullptr;
  char* stacks = nullptr;
  std::unique_ptr<uint64_t[]> shared;
  jmp_buf main;
  void (*kernel)(const void*) = nullptr;
  const void* arguments = nullptr;
  std::string error;
};
State state;

uint64_t draw(uint64_t below) {
  uint64_t z = state.random += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return (z ^ (z >> 31)) % below;
}

char* stack_of(const Fiber& fiber) { return state.stacks + (&fiber - state.fibers.data()) * kStack; }

void enter() {
  state.kernel(state.arguments);
  state.current->done = true;
  _longjmp(state.main, 1);
}

void resume(Fiber& fiber) {
  state.current = &fiber;
  if (_setjmp(state.main) == 0) {
    if (fiber.started) _longjmp(fiber.context, 1);
    fiber.started = true;
    setcontext(&fiber.start);
  }
  state.current = nullptr;
}

void suspend() {
  if (_setjmp(state.current->context) == 0) _longjmp(state.main, 1);
}

std::string where(const Fiber& fiber) {
  const auto text = [](auto v) {
    return "(" + std::to_string(v.x) + ", " + std::to_string(v.y) + ", " + std::to_string(v.z) + ")";
  };
  return "thread " + text(fiber.index) + " of block " + text(state.block_index);
}

// Every thread of the block until all are done or none can go on.
void run_block(unsigned threads, uint32_t block) {
  state.ready.clear();
  state.at_barrier.clear();
  state.warps.clear();
  for (unsigned t = 0; t < threads; ++t) {
    Fiber& fiber = state.fibers[t];
    fiber.started = fiber.done = false;
    fiber.index = {t % state.block.x, t / state.block.x % state.block.y, t / state.block.x / state.block.y};
    fiber.self = {state.launches, block, t, 0, 0};
    fiber.copies.assign(1, {});
    getcontext(&fiber.start);
    fiber.start.uc_stack.ss_sp = stack_of(fiber);
    fiber.start.uc_stack.ss_size = kStack;
    fiber.start.uc_link = nullptr;
    makecontext(&fiber.start, enter, 0);
    state.ready.push_back(&fiber);
  }
  unsigned done = 0;
  while (!state.ready.empty() && state.error.empty()) {
    std::swap(state.ready[draw(state.ready.size())], state.ready.back());
    Fiber& fiber = *state.ready.back();
    state.ready.pop_back();
    resume(fiber);
    done += fiber.done;
  }
  if (!state.error.empty() || done == threads) return;
  for (const Fiber& fiber : state.fibers) {
    if (fiber.started && !fiber.done) {
      state.error = "deadlock: " + std::to_string(state.at_barrier.size()) + " of " + std::to_string(threads) +
                    " threads wait at a barrier, " + std::to_string(done) + " have left; waiting: " + where(fiber);
      return;
    }
  }
}

}  // namespace

void fail(const std::string& message) {
  state.error = message + " by " + where(*state.current);
  _longjmp(state.main, 1);
}

const Access* self() { return state.current == nullptr ? nullptr : &state.current->self; }

bool on_own_stack(const void* address) {
  const char* stack = stack_of(*state.current);
  return address >= stack && address < stack + kStack;
}

uint3 thread_index() { return state.current->index; }
uint3 block_index() { return state.block_index; }
dim3 block_size() { return state.block; }
dim3 grid_size() { return state.grid; }
int lane() { return static_cast<int>(state.current->self.thread % 32); }
char* dynamic_shared() { return reinterpret_cast<char*>(state.shared.get()); }

void barrier() {
  state.at_barrier.push_back(state.current);
  if (state.at_barrier.size() < size_t{state.block.x} * state.block.y * state.block.z) return suspend();
  for (Fiber* fiber : state.at_barrier) {
    ++fiber->self.barriers;
    if (fiber != state.current) state.ready.push_back(fiber);
  }
  state.at_barrier.clear();
  // The last to arrive must not always be the first to go on.
  state.ready.push_back(state.current);
  suspend();
}

const Words* exchange(uint32_t mask, const Words& mine) {
  const int at = lane();
  if ((mask >> at & 1) == 0) fail("a warp collective without the calling lane in its mask");
  Rendezvous& meeting = state.warps[{state.current->self.thread / 32, mask}];
  meeting.given[at] = mine;
  meeting.arrived |= 1u << at;
  meeting.waiting.push_back(state.current);
  if (meeting.arrived == mask) {
    std::memcpy(meeting.published, meeting.given, sizeof(meeting.given));
    meeting.arrived = 0;
    state.ready.insert(state.ready.end(), meeting.waiting.begin(), meeting.waiting.end());
    meeting.waiting.clear();
  }
  suspend();
  return meeting.published;
}

Words word_of(uint32_t mask, const Words& mine, int from) {
  if ((mask >> from & 1) == 0) fail("a shuffle from a lane outside its mask");
  return exchange(mask, mine)[from];
}

uint32_t ballot(uint32_t mask, bool predicate) {
  const Words* all = exchange(mask, Words{{predicate}});
  uint32_t result = 0;
  for (int i = 0; i < 32; ++i) result |= (mask >> i & 1) != 0 && all[i].word[0] != 0 ? 1u << i : 0u;
  return result;
}

void warp_barrier(uint32_t mask) {
  exchange(mask, Words{});
  ++state.current->self.warp_barriers;
}

void copy_async(void* shared, const void* global, int bytes, int filled) {
  const auto misaligned = [bytes](const void* p) { return reinterpret_cast<uintptr_t>(p) % bytes != 0; };
  if (misaligned(shared) || (filled > 0 && misaligned(global))) fail("a misaligned cp.async");
  if (filled > 0) watch_read(global, filled, __builtin_return_address(0));
  watch_copy(shared, bytes, false, __builtin_return_address(0));
  Copy copy{static_cast<char*>(shared), std::vector<char>(bytes, 0)};
  if (filled > 0) std::memcpy(copy.bytes.data(), global, filled);
  state.current->copies.back().push_back(std::move(copy));
}

void copy_commit() { state.current->copies.emplace_back(); }

void copy_wait(int groups_left) {
  auto& groups = state.current->copies;
  while (static_cast<int>(groups.size()) - 1 > groups_left) {
    for (const Copy& copy : groups.front()) {
      std::memcpy(copy.to, copy.bytes.data(), copy.bytes.size());
      watch_copy(copy.to, copy.bytes.size(), true, __builtin_return_address(0));
    }
    groups.erase(groups.begin());
  }
}

const char* run(dim3 grid, dim3 block, size_t shared_bytes, void (*kernel)(const void*), const void* arguments) {
  const unsigned threads = block.x * block.y * block.z;
  const uint64_t blocks = uint64_t{grid.x} * grid.y * grid.z;
  state.error.clear();
  if (threads == 0 || threads > kMostThreads || grid.y > 65535 || grid.z > 65535 || shared_bytes > 227 * 1024) {
    state.error = "invalid launch: " + std::to_string(threads) + " threads, " + std::to_string(shared_bytes) + " bytes";
    return state.error.c_str();
  }
  if (state.stacks == nullptr) {
    state.fibers.resize(kMostThreads);
    state.stacks = static_cast<char*>(mmap(nullptr, kMostThreads * kStack, PROT_READ | PROT_WRITE,
                                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  }
  state.shared = std::make_unique<uint64_t[]>(shared_bytes / 8 + 2);
  if (reinterpret_cast<uintptr_t>(state.shared.get()) % 16 != 0) fail("shared memory is not aligned");
  watch_shared(state.shared.get(), shared_bytes, __builtin_frame_address(0));
  ++state.launches;
  state.grid = grid;
  state.block = block;
  state.kernel = kernel;
  state.arguments = arguments;
  std::vector<uint64_t> order(blocks);
  for (uint64_t i = 0; i < blocks; ++i) order[i] = i;
  for (uint64_t left = blocks; left > 0 && state.error.empty(); --left) {
    std::swap(order[draw(left)], order[left - 1]);
    const uint64_t b = order[left - 1];
    state.block_index = {static_cast<unsigned>(b % grid.x), static_cast<unsigned>(b / grid.x % grid.y),
                         static_cast<unsigned>(b / grid.x / grid.y)};
    run_block(threads, static_cast<uint32_t>(b));
  }
  return state.error.empty() ? nullptr : state.error.c_str();
}

void seed(uint64_t value) { state.random = value; }

}  // namespace emulate
