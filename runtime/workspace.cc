#include "runtime/workspace.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <vector>

namespace top {
namespace {

constexpr size_t kMinimumBlockBytes = size_t{1} << 20;

// Blocks are only added while allocations are live. Once none is, several blocks are replaced by
// one that holds them all, so that in a steady state every allocation is a pointer bump.
class WorkspaceStack {
 public:
  ~WorkspaceStack() {
    for (const Block& block : blocks_) std::free(block.base);
  }

  void* allocate(size_t nbytes) {
    if (nbytes > SIZE_MAX / 2) return nullptr;
    nbytes = std::max(round_up(nbytes), kAlignment);
    if (live_.empty() && blocks_.size() > 1) merge_blocks();
    while (current_ < blocks_.size() && blocks_[current_].size - used_ < nbytes) {
      ++current_;
      used_ = 0;
    }
    if (current_ == blocks_.size() && !add_block(std::max(nbytes, kMinimumBlockBytes))) {
      return nullptr;
    }
    void* pointer = blocks_[current_].base + used_;
    live_.push_back({pointer, current_, used_, false});
    used_ += nbytes;
    return pointer;
  }

  bool free(void* pointer) {
    auto found =
        std::find_if(live_.rbegin(), live_.rend(), [pointer](const Allocation& allocation) {
          return allocation.pointer == pointer && !allocation.freed;
        });
    if (found == live_.rend()) return false;
    found->freed = true;
    while (!live_.empty() && live_.back().freed) {
      current_ = live_.back().block;
      used_ = live_.back().used_before;
      live_.pop_back();
    }
    return true;
  }

 private:
  struct Block {
    char* base;
    size_t size;
  };
  struct Allocation {
    void* pointer;
    size_t block;
    size_t used_before;
    bool freed;
  };

  bool add_block(size_t size) {
    char* base = static_cast<char*>(std::aligned_alloc(kAlignment, size));
    if (base == nullptr) return false;
    blocks_.push_back({base, size});
    current_ = blocks_.size() - 1;
    used_ = 0;
    return true;
  }

  void merge_blocks() {
    size_t total = 0;
    for (const Block& block : blocks_) {
      total += block.size;
      std::free(block.base);
    }
    blocks_.clear();
    current_ = 0;
    used_ = 0;
    // If this fails the next allocation tries again with what it needs itself.
    add_block(total);
  }

  std::vector<Block> blocks_;
  std::vector<Allocation> live_;
  size_t current_ = 0;
  size_t used_ = 0;
};

thread_local WorkspaceStack stack;

}  // namespace

void* allocate_workspace(size_t nbytes) noexcept {
  try {
    return stack.allocate(nbytes);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

bool free_workspace(void* pointer) noexcept { return stack.free(pointer); }

}  // namespace top
