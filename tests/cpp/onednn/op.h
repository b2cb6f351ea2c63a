// One oneDNN op as a plan of its own, and how it is compared with naive loops.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "runtime/executor.h"
#include "runtime/library_module.h"
#include "tests/cpp/plans.h"

namespace top::testing {

using Attributes = std::map<std::string, std::vector<double>>;

struct Operand {
  const char* name;
  std::vector<int64_t> shape;
  bool constant;
};

struct Op {
  std::string symbol;
  Attributes attributes;
  std::vector<Operand> operands;  // without the output
  std::vector<int64_t> out_shape;

  // Constant operands are constants of the same name.
  PlanData plan(int threads) const;
};

// Computes an op from the data of its operands.
using Reference = void (*)(const Op&, const std::vector<Buffer>&, const Buffer&);

// Ops of one kind, and what they must compute.
struct Family {
  std::vector<Op> ops;
  Reference reference;
};

Family convolutions();
Family activations();  // convolutions with every operation of an epilogue
Family deconvolutions();
Family matmuls();
Family pools();
Family softmaxes();
Family layer_norms();
Family local_response_norms();

size_t elements(const std::vector<int64_t>& shape);
// An attribute of an op, 0 where it is missing.
double number(const Op& op, const char* name, size_t position = 0);
int64_t value(const Op& op, const char* name, size_t position = 0);
// The epilogue on a finished product: bias, then the operations in the order of their names.
void finish(const Op& op, const std::vector<Buffer>& data, const Buffer& out);

TVMFFISafeCallType no_kernel(const std::string& symbol);
void check_close(const Buffer& given, const Buffer& expected);
// Through the executor, with one and with two threads.
void check_op(const Op& op, const TopLibraryKernels& library, Reference reference);
// Without a plan: some ops of most families on operands in every form that a plan may have.
void check_loose_tensors(const TopLibraryKernels& library);

}  // namespace top::testing
