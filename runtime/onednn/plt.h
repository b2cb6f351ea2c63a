// Redirecting the calls that one loaded shared library makes to others.
#pragma once

#include <string>
#include <vector>

namespace top {

struct Redirection {
  std::string symbol;
  void* replacement;
  void** original;  // receives the function that was called so far
};

// Redirects the calls of the loaded library `soname` to each symbol, by its procedure linkage table
// (x86-64 and AArch64 ELF). Imports of the prefixes GOMP_ and omp_ that are not in the list would
// escape to libgomp: they are refused. Nothing is changed unless everything fits; throws
// std::runtime_error otherwise.
void redirect_plt(const std::string& soname, const std::vector<Redirection>& redirections);

}  // namespace top
