// Assertions of the C++ tests: a test program prints what failed and returns non-zero.
#pragma once

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <string>

namespace top::testing {

inline std::atomic<int> failures{0};

inline void report(bool ok, const char* expression, const char* file, int line) {
  if (ok) return;
  // Loops over elements check a lot: the first failures tell enough.
  if (failures.fetch_add(1) >= 20) return;
  std::fprintf(stderr, "%s:%d: failed: %s\n", file, line, expression);
}

inline int result(const char* name) {
  std::fprintf(stderr, "%s: %s\n", name, failures.load() == 0 ? "passed" : "FAILED");
  return failures.load() == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

}  // namespace top::testing

#define CHECK(expression) top::testing::report((expression), #expression, __FILE__, __LINE__)

#define CHECK_THROWS(statement, type, text)                                                     \
  do {                                                                                          \
    std::string message = "no exception";                                                       \
    try {                                                                                       \
      statement;                                                                                \
    } catch (const type& error) {                                                               \
      message = error.what();                                                                   \
    }                                                                                           \
    if (message.find(text) == std::string::npos) std::fprintf(stderr, "%s\n", message.c_str()); \
    CHECK(message.find(text) != std::string::npos);                                             \
  } while (false)
