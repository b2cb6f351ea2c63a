#include <nanobind/nanobind.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <tuple>
#include <utility>

#include "passes/arena.h"

namespace nb = nanobind;

namespace top {

namespace {

using CallTuple = std::tuple<int, int, std::vector<int>>;
using BufferTuple = std::tuple<int64_t, std::vector<int>, std::vector<int>>;

std::tuple<std::vector<int64_t>, int64_t, int64_t> plan_arena_tuples(
    int streams, const std::vector<CallTuple>& calls, const std::vector<BufferTuple>& buffers) {
  std::vector<ArenaCall> arena_calls;
  arena_calls.reserve(calls.size());
  for (const auto& [stream, threads, waits] : calls) {
    arena_calls.push_back({stream, threads, waits});
  }
  std::vector<ArenaBuffer> arena_buffers;
  arena_buffers.reserve(buffers.size());
  for (const auto& [nbytes, writers, readers] : buffers) {
    arena_buffers.push_back({nbytes, writers, readers});
  }
  ArenaLayout layout = plan_arena(streams, arena_calls, arena_buffers);
  return {std::move(layout.offsets), layout.total_bytes, layout.lower_bound_bytes};
}

}  // namespace

void bind_arena(nb::module_& m) {
  m.def("plan_arena", &plan_arena_tuples, nb::arg("streams"), nb::arg("calls"), nb::arg("buffers"),
        nb::call_guard<nb::gil_scoped_release>(),
        "Place buffers (nbytes, writers, readers) of calls (stream, threads, waits) in one arena;\n"
        "returns (offsets, total_bytes, lower_bound_bytes). Raises ValueError on malformed input.");
}

}  // namespace top
