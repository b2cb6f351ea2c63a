// What the bindings of the executor and of the asynchronous runtime have in common.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "runtime/client_gate.h"
#include "runtime/executor.h"
#include "runtime/kernel_library.h"

namespace top {

namespace nb = nanobind;

using InputArray = nb::ndarray<nb::ro, nb::device::cpu>;
using OutputArray = nb::ndarray<nb::numpy>;

bool is_contiguous(const InputArray& array);

// Releases the interpreter's lock while native code runs, unless the interpreter is about to end.
class Unlocked {
 public:
  Unlocked() { inside_.emplace(); }
  ~Unlocked() {
    // Back in the interpreter first: it does not end before the gate has seen this thread leave.
    released_.reset();
    inside_.reset();
  }

 private:
  std::optional<nb::gil_scoped_release> released_{std::in_place};
  std::optional<ClientInside> inside_;
};

// An executor, and what it needs to stay alive. Called with the interpreter's lock, which is
// released while a plan executes.
class BoundExecutor {
 public:
  BoundExecutor(nb::object plan, std::map<std::string, InputArray> constants, nb::object library,
                const std::optional<std::string>& library_kernels);

  std::vector<OutputArray> run(const std::vector<InputArray>& inputs);
  // Microseconds of each run, from submission to completion.
  OutputArray time(const std::vector<InputArray>& inputs, int warmup, int repeats);
  // Microseconds since submission, (repeats, calls, 2): start and end of every call.
  OutputArray timeline(const std::vector<InputArray>& inputs, int warmup, int repeats);

  const std::shared_ptr<Executor>& executor() const { return executor_; }

 private:
  struct Bound {
    std::vector<const void*> inputs;
    std::vector<void*> outputs;
    std::vector<OutputArray> arrays;
  };

  Bound bind(const std::vector<InputArray>& inputs) const;

  // Kept alive for the executor, which goes first.
  std::map<std::string, InputArray> constants_;
  nb::object library_;
  std::shared_ptr<Executor> executor_;
};

}  // namespace top
