#include "runtime/onednn/kernel.h"

#include <algorithm>
#include <mutex>
#include <stdexcept>

#include "runtime/onednn/openmp.h"

namespace top::onednn {

const dnnl::engine& cpu_engine() {
  // Never destroyed: kernels may live until the process ends.
  static const auto* engine = new dnnl::engine(dnnl::engine::kind::cpu, 0);
  return *engine;
}

void Spec::require(bool condition, const std::string& expectation) {
  if (!condition) throw std::invalid_argument(expectation);
}

std::vector<int64_t> Spec::attribute(const std::string& name, int count) const {
  for (int i = 0; i < spec_.num_attributes; ++i) {
    const TopAttribute& attribute = spec_.attributes[i];
    if (name != attribute.name) continue;
    require(attribute.num_values == count,
            "attribute '" + name + "' must have " + std::to_string(count) + " values");
    return {attribute.values, attribute.values + count};
  }
  throw std::invalid_argument("attribute '" + name + "' is missing");
}

int64_t Spec::flag(const std::string& name, int64_t fallback) const {
  for (int i = 0; i < spec_.num_attributes; ++i) {
    if (name == spec_.attributes[i].name) return attribute(name, 1)[0];
  }
  return fallback;
}

void Spec::expect_args(int count) const {
  require(spec_.num_args == count, "expected " + std::to_string(count) + " arguments, given " +
                                       std::to_string(spec_.num_args));
  for (int i = 0; i < count; ++i) {
    const DLDataType& dtype = arg(i).dtype;
    require(dtype.code == kDLFloat && dtype.bits == 32 && dtype.lanes == 1,
            "argument " + std::to_string(i) + " must be float32");
  }
}

dnnl::memory::dims Spec::shape(int position) const {
  return {arg(position).shape, arg(position).shape + arg(position).ndim};
}

std::shared_ptr<const dnnl::memory> pack_weights(void* data, const dnnl::memory::desc& source,
                                                 const dnnl::memory::desc& wanted) {
  const PlannedThreads serial(1);
  const dnnl::memory original(source, cpu_engine(), data);
  if (source == wanted) return std::make_shared<const dnnl::memory>(original);

  struct Packed {
    void* data;
    dnnl::memory::desc source, wanted;
    std::weak_ptr<const dnnl::memory> memory;
  };
  static std::mutex mutex;
  static auto* cache = new std::vector<Packed>;
  // Packing happens under the lock: two threads that load the same model share the work as well.
  std::lock_guard<std::mutex> lock(mutex);
  // An address stands for the constant only while somebody uses it, hence weak pointers.
  cache->erase(std::remove_if(cache->begin(), cache->end(),
                              [](const Packed& packed) { return packed.memory.expired(); }),
               cache->end());
  for (const Packed& packed : *cache) {
    if (packed.data == data && packed.source == source && packed.wanted == wanted) {
      if (auto memory = packed.memory.lock()) return memory;
    }
  }
  auto memory = std::make_shared<dnnl::memory>(wanted, cpu_engine());
  dnnl::stream stream(cpu_engine());
  dnnl::memory from = original;
  dnnl::reorder(from, *memory).execute(stream, from, *memory);
  stream.wait();
  cache->push_back({data, source, wanted, memory});
  return memory;
}

Epilogue read_epilogue(const Spec& spec) {
  return {spec.flag("bias", 0) != 0, spec.flag("residual", 0) != 0, spec.flag("relu", 0) != 0};
}

dnnl::primitive_attr make_attributes(const Epilogue& epilogue, const dnnl::memory::desc& residual) {
  dnnl::post_ops operations;
  if (epilogue.residual) operations.append_binary(dnnl::algorithm::binary_add, residual);
  if (epilogue.relu) operations.append_eltwise(dnnl::algorithm::eltwise_relu, 0.0f, 0.0f);
  dnnl::primitive_attr attributes;
  attributes.set_post_ops(operations);
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  return attributes;
}

}  // namespace top::onednn
