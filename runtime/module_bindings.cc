// The Python module top_tvm._native.
#include <nanobind/nanobind.h>

namespace top {
void bind_runtime(nanobind::module_& module);
void bind_partition(nanobind::module_& module);
void bind_arena(nanobind::module_& module);
void bind_serving(nanobind::module_& module);
}  // namespace top

NB_MODULE(_native, module) {
  module.doc() = "Native core of top_tvm; see the type stub for its contents.";
  // Objects that daemon threads or module globals hold when the interpreter ends are no defect, and
  // a library does not print.
  nanobind::set_leak_warnings(false);
  top::bind_runtime(module);
  top::bind_partition(module);
  top::bind_arena(module);
  top::bind_serving(module);
}
