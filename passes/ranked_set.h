// A set of ranks, from 0, as bits: the first of them is found in a few instructions.
#ifndef TOP_PASSES_RANKED_SET_H_
#define TOP_PASSES_RANKED_SET_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace top {

class RankedSet {
 public:
  static constexpr int kNone = -1;

  // For ranks below `size`.
  explicit RankedSet(int size) : words_((static_cast<size_t>(size) + 63) / 64) {}

  void clear() { words_.assign(words_.size(), 0); }
  void insert(int rank) { words_[word(rank)] |= bit(rank); }
  void erase(int rank) { words_[word(rank)] &= ~bit(rank); }
  // The lowest rank that is at least `rank`, or kNone.
  int next(int rank) const {
    size_t at = word(rank);
    if (at >= words_.size()) return kNone;
    uint64_t bits = words_[at] & (~uint64_t{0} << (rank % 64));
    while (bits == 0) {
      if (++at == words_.size()) return kNone;
      bits = words_[at];
    }
    return static_cast<int>(at * 64) + __builtin_ctzll(bits);
  }
  int first() const { return next(0); }

 private:
  static size_t word(int rank) { return static_cast<size_t>(rank) / 64; }
  static uint64_t bit(int rank) { return uint64_t{1} << (rank % 64); }

  std::vector<uint64_t> words_;
};

}  // namespace top

#endif  // TOP_PASSES_RANKED_SET_H_
