// Sets of up to 128 ops as bits, and the posets' little algebra that the search needs.
#ifndef TOP_PASSES_OP_SET_H_
#define TOP_PASSES_OP_SET_H_

#include <cstddef>
#include <cstdint>

namespace top {

struct OpSet {
  static constexpr int kCapacity = 128;

  uint64_t low = 0;
  uint64_t high = 0;

  static OpSet of(int op) {
    return op < 64 ? OpSet{uint64_t{1} << op, 0} : OpSet{0, uint64_t{1} << (op - 64)};
  }
  // {0, ..., count - 1}
  static OpSet first(int count) {
    const auto ones = [](int n) { return n >= 64 ? ~uint64_t{0} : (uint64_t{1} << n) - 1; };
    return count <= 64 ? OpSet{ones(count), 0} : OpSet{~uint64_t{0}, ones(count - 64)};
  }

  bool empty() const { return (low | high) == 0; }
  int size() const { return __builtin_popcountll(low) + __builtin_popcountll(high); }
  bool contains(const OpSet& other) const {
    return (other.low & ~low) == 0 && (other.high & ~high) == 0;
  }
  // Smallest op; the set must not be empty.
  int front() const { return low ? __builtin_ctzll(low) : 64 + __builtin_ctzll(high); }
  void pop_front() {
    if (low) {
      low &= low - 1;
    } else {
      high &= high - 1;
    }
  }
};

inline OpSet operator|(const OpSet& a, const OpSet& b) { return {a.low | b.low, a.high | b.high}; }
inline OpSet operator&(const OpSet& a, const OpSet& b) { return {a.low & b.low, a.high & b.high}; }
// Set difference.
inline OpSet operator-(const OpSet& a, const OpSet& b) {
  return {a.low & ~b.low, a.high & ~b.high};
}
inline bool operator==(const OpSet& a, const OpSet& b) {
  return a.low == b.low && a.high == b.high;
}

struct OpSetHash {
  size_t operator()(const OpSet& set) const {
    uint64_t hash = (set.low ^ (set.high * 0x9e3779b97f4a7c15u)) * 0xff51afd7ed558ccdu;
    return static_cast<size_t>(hash ^ (hash >> 32));
  }
};

}  // namespace top

#endif  // TOP_PASSES_OP_SET_H_
