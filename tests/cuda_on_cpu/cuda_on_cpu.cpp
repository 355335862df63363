#include <c10/util/Exception.h>
#include <cuda_runtime.h>
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <vector>

// libm's tanhf has an error of up to 2 ULP, more than CUDA's and torch's.
extern "C" float tanhf(float x) noexcept { return static_cast<float>(std::tanh(static_cast<double>(x))); }

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace cuda_on_cpu {
namespace {

constexpr unsigned kWarp = 32;
constexpr unsigned kMaxBlocks = 3;
constexpr size_t kStack = 64 << 10;
constexpr size_t kWidest = 8;  // bytes a shuffle moves at once

[[noreturn]] void work();

// A stack on which threads of a block run, one after the other; the next starts when one ends. Only a waiting thread
// occupies its fiber, so that a kernel without barriers is a plain loop over its threads.
struct Fiber {
  ucontext_t start;
  jmp_buf place;
  bool started = false;
  unsigned thread = 0;
  std::unique_ptr<char[]> stack{new char[kStack]};  // uninitialized, so that only used pages are touched

  Fiber() {
    getcontext(&start);
    start.uc_stack.ss_sp = stack.get();
    start.uc_stack.ss_size = kStack;
    makecontext(&start, work, 0);
  }
};

struct Barrier {
  unsigned expected = 0;
  std::vector<Fiber*> waiting;
};

// Two generations of values, so that a lane can provide the next one while others still read the last.
struct Warp {
  Barrier barrier;
  std::array<std::array<std::array<char, kWidest>, kWarp>, 2> values;
  std::array<bool, kWarp> generation{};
};

struct Block {
  const std::function<void()>* kernel = nullptr;
  bool last_first = false;    // threads start in descending order
  bool newest_first = false;  // the latest thread to become ready resumes first: warps run ahead of each other
  unsigned begun = 0, ended = 0;
  Barrier barrier;
  std::vector<Warp> warps;
  std::deque<Fiber*> ready;
  std::vector<Fiber*> idle;
  std::vector<std::unique_ptr<Fiber>> fibers;
  Fiber* current = nullptr;
  jmp_buf scheduler;
  std::exception_ptr failure;
} block;

void enter(Fiber* fiber) {
  block.current = fiber;
  threadIdx.x = fiber->thread;
  // setjmp and longjmp switch stacks without the system calls of swapcontext.
  if (_setjmp(block.scheduler) == 0) {
    if (fiber->started) {
      _longjmp(fiber->place, 1);
    }
    fiber->started = true;
    setcontext(&fiber->start);
  }
}

void leave() {
  if (_setjmp(block.current->place) == 0) {
    _longjmp(block.scheduler, 1);
  }
}

void work() {
  for (;;) {
    while (block.begun < blockDim.x) {
      const unsigned nth = block.begun++;
      block.current->thread = threadIdx.x = block.last_first ? blockDim.x - 1 - nth : nth;
      try {
        (*block.kernel)();
      } catch (...) {
        block.failure = std::current_exception();
        leave();
      }
      ++block.ended;
    }
    block.idle.push_back(block.current);
    leave();
  }
}

void wait(Barrier& barrier) {
  if (barrier.waiting.size() + 1 < barrier.expected) {
    barrier.waiting.push_back(block.current);
    leave();
  } else {
    block.ready.insert(block.ready.end(), barrier.waiting.begin(), barrier.waiting.end());
    barrier.waiting.clear();
  }
}

Fiber* idle_fiber() {
  if (block.idle.empty()) {
    block.fibers.push_back(std::make_unique<Fiber>());
    return block.fibers.back().get();
  }
  Fiber* fiber = block.idle.back();
  block.idle.pop_back();
  return fiber;
}

Fiber* next_ready() {
  Fiber* fiber;
  if (block.newest_first) {
    fiber = block.ready.back();
    block.ready.pop_back();
  } else {
    fiber = block.ready.front();
    block.ready.pop_front();
  }
  return fiber;
}

void schedule() {
  block.begun = block.ended = 0;
  block.barrier.expected = blockDim.x;
  block.warps.resize(blockDim.x / kWarp);
  for (Warp& warp : block.warps) {
    warp.barrier.expected = kWarp;
  }
  while (block.ended < blockDim.x) {
    if (block.begun < blockDim.x) {
      enter(idle_fiber());
    } else {
      TORCH_CHECK(
          !block.ready.empty(),
          "a CUDA kernel is stuck: ",
          blockDim.x - block.ended,
          " threads wait at a barrier, ",
          block.ended,
          " have returned"
      );
      enter(next_ready());
    }
    if (block.failure) {
      std::rethrow_exception(block.failure);
    }
  }
}

void run_block() {
  try {
    schedule();
  } catch (...) {
    block = Block{};  // abandons the waiting fibers
    throw;
  }
}

}  // namespace

void run(unsigned requested, unsigned threads, const std::function<void()>& kernel) {
  TORCH_CHECK(
      0 < threads && threads <= 1024 && threads % kWarp == 0,
      "expected a block of whole warps, got a block of size ",
      threads
  );
  static std::mutex one_launch_at_a_time;
  const std::lock_guard<std::mutex> lock(one_launch_at_a_time);
  block.kernel = &kernel;
  static unsigned launches = 0;
  block.last_first = launches & 1;
  block.newest_first = launches & 2;
  ++launches;
  blockDim.x = threads;
  const unsigned blocks = std::min(requested, kMaxBlocks);
  gridDim.x = blocks;
  for (unsigned i = 0; i < blocks; ++i) {
    blockIdx.x = block.last_first ? blocks - 1 - i : i;
    run_block();
  }
}

unsigned lane() { return threadIdx.x % kWarp; }

const void* exchange(unsigned mask, const void* value, size_t bytes, unsigned lane) {
  TORCH_CHECK(mask == 0xffffffff && lane < kWarp && bytes <= kWidest, "this harness does not support such a shuffle");
  Warp& warp = block.warps[threadIdx.x / kWarp];
  const unsigned own = cuda_on_cpu::lane();
  auto& values = warp.values[warp.generation[own] ^= true];
  std::memcpy(values[own].data(), value, bytes);
  wait(warp.barrier);
  return values[lane].data();
}

}  // namespace cuda_on_cpu

void __syncthreads() { cuda_on_cpu::wait(cuda_on_cpu::block.barrier); }
