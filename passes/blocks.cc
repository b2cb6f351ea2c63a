#include "passes/blocks.h"

#include <algorithm>
#include <cstdlib>
#include <numeric>
#include <unordered_map>

namespace top {

std::vector<Levels> split_blocks(const Graph& graph) {
  std::vector<int> level(graph.num_ops, 0);
  int num_levels = 0;
  for (int op = 0; op < graph.num_ops; ++op) {
    for (int pred : graph.preds[op]) level[op] = std::max(level[op], level[pred] + 1);
    num_levels = std::max(num_levels, level[op] + 1);
  }

  // A value is open from its level up to the first level that uses it. The cut before a level is
  // a series cut if each op of the level uses all values that are open there.
  std::vector<int> first_use(graph.num_ops, num_levels);
  std::vector<int> open(num_levels + 1, 0);
  for (int op = 0; op < graph.num_ops; ++op) {
    for (int succ : graph.succs[op]) first_use[op] = std::min(first_use[op], level[succ]);
    ++open[level[op]];
    --open[first_use[op]];
  }
  std::partial_sum(open.begin(), open.end(), open.begin());
  std::vector<char> cut_before(num_levels, true);
  for (int op = 0; op < graph.num_ops; ++op) {
    const auto used = std::count_if(graph.preds[op].begin(), graph.preds[op].end(),
                                    [&](int pred) { return first_use[pred] == level[op]; });
    if (level[op] > 0 && used != open[level[op] - 1]) cut_before[level[op]] = false;
  }

  Levels levels(num_levels);
  for (int op = 0; op < graph.num_ops; ++op) levels[level[op]].push_back(op);
  std::vector<Levels> blocks;
  for (int at = 0; at < num_levels; ++at) {
    if (cut_before[at]) blocks.emplace_back();
    blocks.back().push_back(std::move(levels[at]));
  }
  return blocks;
}

std::pair<Levels, Levels> split_levels(const Graph& graph, const Levels& levels) {
  const int count = static_cast<int>(levels.size());
  std::unordered_map<int, int> level_of;
  for (int level = 0; level < count; ++level) {
    for (int op : levels[level]) level_of[op] = level;
  }
  std::vector<int> crossing(count + 1, 0);  // values computed before a level, used at or behind it
  for (const auto& [op, level] : level_of) {
    int last_use = level;
    for (int succ : graph.succs[op]) {
      const auto found = level_of.find(succ);
      if (found != level_of.end()) last_use = std::max(last_use, found->second);
    }
    ++crossing[level + 1];
    --crossing[last_use + 1];
  }
  std::partial_sum(crossing.begin(), crossing.end(), crossing.begin());

  const auto rank = [&](int at) { return std::make_pair(crossing[at], std::abs(2 * at - count)); };
  const int margin = std::max(1, count / 3);
  int best = margin;
  for (int at = margin; at <= count - margin; ++at) {
    if (rank(at) < rank(best)) best = at;
  }
  return {Levels(levels.begin(), levels.begin() + best),
          Levels(levels.begin() + best, levels.end())};
}

}  // namespace top
