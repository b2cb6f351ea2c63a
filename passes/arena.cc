#include "passes/arena.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>

namespace top {
namespace {

[[noreturn]] void fail(const std::string& what, size_t index, const std::string& why) {
  throw std::invalid_argument(what + " " + std::to_string(index) + " " + why);
}

// The partial order in which calls execute, as one bitset of ancestors per call.
class HappensBefore {
 public:
  HappensBefore(int streams, const std::vector<ArenaCall>& calls)
      : words_((calls.size() + 63) / 64), ancestors_(calls.size() * words_, 0) {
    if (streams < 1) throw std::invalid_argument("a plan needs at least one stream");
    std::vector<int> last(streams, -1);  // the call that a stream executed last
    for (size_t i = 0; i < calls.size(); ++i) {
      const ArenaCall& call = calls[i];
      if (call.stream < 0 || call.stream >= streams) fail("call", i, "is on no stream of the plan");
      if (call.threads != 1 && call.threads != streams) {
        fail("call", i, "must use one thread or as many as there are streams");
      }
      for (int wait : call.waits) {
        if (wait < 0 || wait >= static_cast<int>(i)) fail("call", i, "waits for no earlier call");
        inherit(i, wait);
      }
      bool gang = call.threads > 1;
      for (int stream = gang ? 0 : call.stream; stream < (gang ? streams : call.stream + 1);
           ++stream) {
        if (last[stream] >= 0) inherit(i, last[stream]);
        last[stream] = static_cast<int>(i);
      }
    }
  }

  // Whether `first` has finished whenever `second` starts.
  bool ordered(int first, int second) const {
    return ancestors_[second * words_ + first / 64] >> (first % 64) & 1;
  }

 private:
  void inherit(size_t call, int from) {
    uint64_t* row = &ancestors_[call * words_];
    const uint64_t* parent = &ancestors_[from * words_];
    for (size_t w = 0; w < words_; ++w) row[w] |= parent[w];
    row[from / 64] |= uint64_t{1} << (from % 64);
  }

  size_t words_;
  std::vector<uint64_t> ancestors_;
};

void check_buffers(const std::vector<ArenaBuffer>& buffers, int num_calls,
                   const HappensBefore& order) {
  // Sums of sizes must not overflow either; no machine comes near this limit.
  constexpr int64_t kMaxTotal = std::numeric_limits<int64_t>::max() / 4;
  int64_t total = 0;
  for (size_t i = 0; i < buffers.size(); ++i) {
    const ArenaBuffer& buffer = buffers[i];
    if (buffer.nbytes < 0) fail("buffer", i, "has a negative size");
    if (buffer.nbytes > kMaxTotal - total - kArenaAlignment) fail("buffer", i, "is too large");
    total += buffer.nbytes + kArenaAlignment;
    if (buffer.writers.empty()) fail("buffer", i, "is written by no call of the plan");
    for (int writer : buffer.writers) {
      if (writer < 0 || writer >= num_calls) {
        fail("buffer", i, "is written by no call of the plan");
      }
    }
    for (int reader : buffer.readers) {
      if (reader < 0 || reader >= num_calls) fail("buffer", i, "is read by no call of the plan");
      if (std::none_of(buffer.writers.begin(), buffer.writers.end(),
                       [&](int writer) { return order.ordered(writer, reader); })) {
        fail("buffer", i,
             "is read by call " + std::to_string(reader) +
                 ", which is not ordered after its writer, call " +
                 std::to_string(buffer.writers.front()));
      }
    }
  }
}

int64_t aligned_bytes(const ArenaBuffer& buffer) {
  return (buffer.nbytes + kArenaAlignment - 1) / kArenaAlignment * kArenaAlignment;
}

int first_write(const ArenaBuffer& buffer) {
  return *std::min_element(buffer.writers.begin(), buffer.writers.end());
}

// Whether every use of `first` is over before any write of `second` starts.
bool dead_before(const ArenaBuffer& first, const ArenaBuffer& second, const HappensBefore& order) {
  const auto over = [&](int use) {
    return std::all_of(second.writers.begin(), second.writers.end(),
                       [&](int writer) { return order.ordered(use, writer); });
  };
  // Writes count as well: not every part of the buffer needs to have a reader.
  return std::all_of(first.readers.begin(), first.readers.end(), over) &&
         std::all_of(first.writers.begin(), first.writers.end(), over);
}

// Puts the buffers, taken in the given sequence, each into the tightest gap that holds it.
ArenaLayout place(const std::vector<ArenaBuffer>& buffers, const std::vector<int>& sequence,
                  const HappensBefore& order) {
  ArenaLayout layout{std::vector<int64_t>(buffers.size(), 0), 0, 0};
  std::vector<int> placed;  // by offset
  for (int current : sequence) {
    const int64_t size = aligned_bytes(buffers[current]);
    if (size == 0) continue;
    int64_t best = -1;
    int64_t best_gap = std::numeric_limits<int64_t>::max();
    int64_t end = 0;  // of the conflicting buffers seen so far
    for (int other : placed) {
      if (dead_before(buffers[other], buffers[current], order) ||
          dead_before(buffers[current], buffers[other], order)) {
        continue;
      }
      const int64_t gap = layout.offsets[other] - end;
      if (gap >= size && gap < best_gap) {
        best = end;
        best_gap = gap;
      }
      end = std::max(end, layout.offsets[other] + aligned_bytes(buffers[other]));
    }
    const int64_t offset = best >= 0 ? best : end;
    layout.offsets[current] = offset;
    layout.total_bytes = std::max(layout.total_bytes, offset + size);
    placed.insert(std::upper_bound(placed.begin(), placed.end(), offset,
                                   [&](int64_t at, int b) { return at < layout.offsets[b]; }),
                  current);
  }
  return layout;
}

int64_t peak_live_bytes(const std::vector<ArenaBuffer>& buffers, size_t num_calls) {
  std::vector<int64_t> change(num_calls + 1, 0);
  for (const ArenaBuffer& buffer : buffers) {
    int last_use = *std::max_element(buffer.writers.begin(), buffer.writers.end());
    for (int reader : buffer.readers) last_use = std::max(last_use, reader);
    change[first_write(buffer)] += aligned_bytes(buffer);
    change[last_use + 1] -= aligned_bytes(buffer);
  }
  int64_t live = 0;
  int64_t peak = 0;
  for (int64_t delta : change) {
    live += delta;
    peak = std::max(peak, live);
  }
  return peak;
}

}  // namespace

ArenaLayout plan_arena(int streams, const std::vector<ArenaCall>& calls,
                       const std::vector<ArenaBuffer>& buffers) {
  const HappensBefore order(streams, calls);
  check_buffers(buffers, static_cast<int>(calls.size()), order);

  // Largest first is the better heuristic on most networks, issue order on long chains of equals.
  std::vector<int> sequence(buffers.size());
  std::iota(sequence.begin(), sequence.end(), 0);
  std::stable_sort(sequence.begin(), sequence.end(),
                   [&](int a, int b) { return first_write(buffers[a]) < first_write(buffers[b]); });
  ArenaLayout by_issue = place(buffers, sequence, order);
  std::stable_sort(sequence.begin(), sequence.end(),
                   [&](int a, int b) { return buffers[a].nbytes > buffers[b].nbytes; });
  ArenaLayout by_size = place(buffers, sequence, order);

  ArenaLayout layout = by_issue.total_bytes < by_size.total_bytes ? by_issue : by_size;
  layout.lower_bound_bytes = peak_live_bytes(buffers, calls.size());
  return layout;
}

}  // namespace top
