// Memory that goes out to clients and comes back: blocks of one size, used again and again.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace top {

class BlockPool;

// A 64-byte aligned piece of memory. References are counted; the last one gives it back.
struct MemoryBlock {
  char* memory;
  std::atomic<int> references;
  std::shared_ptr<BlockPool> pool;  // while it is out
};

// A counted reference. Any thread may drop it, also after whoever made the pool is gone.
class BlockReference {
 public:
  BlockReference() = default;
  explicit BlockReference(MemoryBlock* block) : block_(block) {}
  BlockReference(const BlockReference& other) : block_(other.block_) {
    if (block_ != nullptr) block_->references.fetch_add(1, std::memory_order_relaxed);
  }
  BlockReference(BlockReference&& other) noexcept : block_(std::exchange(other.block_, nullptr)) {}
  BlockReference& operator=(BlockReference other) noexcept {
    std::swap(block_, other.block_);
    return *this;
  }
  ~BlockReference();

  char* memory() const { return block_ == nullptr ? nullptr : block_->memory; }

 private:
  MemoryBlock* block_ = nullptr;
};

// Thread-safe. Always held by a shared_ptr, which blocks that are out share.
class BlockPool : public std::enable_shared_from_this<BlockPool> {
 public:
  // Keeps at most so many blocks for later use.
  BlockPool(size_t block_bytes, size_t most_kept);
  ~BlockPool();
  BlockPool(const BlockPool&) = delete;
  BlockPool& operator=(const BlockPool&) = delete;

  // Throws std::bad_alloc.
  BlockReference take();

 private:
  friend class BlockReference;
  void give_back(MemoryBlock* block);

  const size_t block_bytes_;
  const size_t most_kept_;
  std::mutex mutex_;
  std::vector<MemoryBlock*> free_;  // guarded by mutex_
};

}  // namespace top
