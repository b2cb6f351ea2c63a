#include "runtime/serving/memory_block.h"

#include <algorithm>
#include <cstdlib>
#include <new>

#include "runtime/workspace.h"

namespace top {
namespace {

void destroy(MemoryBlock* block) {
  std::free(block->memory);
  delete block;
}

}  // namespace

BlockReference::~BlockReference() {
  if (block_ == nullptr) return;
  if (block_->references.fetch_sub(1, std::memory_order_acq_rel) > 1) return;
  // The pool may end with its last block.
  const std::shared_ptr<BlockPool> pool = std::move(block_->pool);
  pool->give_back(block_);
}

BlockPool::BlockPool(size_t block_bytes, size_t most_kept)
    : block_bytes_(std::max(round_up(block_bytes), kAlignment)), most_kept_(most_kept) {
  free_.reserve(most_kept);
}

BlockPool::~BlockPool() {
  for (MemoryBlock* block : free_) destroy(block);
}

BlockReference BlockPool::take() {
  MemoryBlock* block = nullptr;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!free_.empty()) {
      block = free_.back();
      free_.pop_back();
    }
  }
  if (block == nullptr) {
    auto created = std::make_unique<MemoryBlock>();
    created->memory = static_cast<char*>(std::aligned_alloc(kAlignment, block_bytes_));
    if (created->memory == nullptr) throw std::bad_alloc();
    block = created.release();
  }
  block->references.store(1, std::memory_order_relaxed);
  block->pool = shared_from_this();
  return BlockReference(block);
}

void BlockPool::give_back(MemoryBlock* block) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (free_.size() < most_kept_) {
      free_.push_back(block);
      return;
    }
  }
  destroy(block);
}

}  // namespace top
