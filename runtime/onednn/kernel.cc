#include "runtime/onednn/kernel.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <new>

#include "runtime/onednn/openmp.h"

namespace top::onednn {
namespace {

constexpr size_t kCacheLine = 64;

void add_copy(Kernel& kernel, const Argument& from, const Argument& to) {
  const dnnl::reorder::primitive_desc copy(cpu_engine(), from.layout, cpu_engine(), to.layout,
                                           user_scratchpad());
  kernel.add<dnnl::reorder>(
      copy, {{DNNL_ARG_FROM, from.place, from.layout}, {DNNL_ARG_TO, to.place, to.layout}});
}

}  // namespace

const dnnl::engine& cpu_engine() {
  // Never destroyed: kernels may live until the process ends.
  static const auto* engine = new dnnl::engine(dnnl::engine::kind::cpu, 0);
  return *engine;
}

dnnl::primitive_attr user_scratchpad() {
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  return attributes;
}

Place Kernel::reserve(size_t nbytes) {
  const Place place{-1, workspace_bytes, nullptr};
  workspace_bytes += (nbytes + kCacheLine - 1) / kCacheLine * kCacheLine;
  return place;
}

Argument dense_input(Kernel& kernel, const Spec& spec, int position, int id) {
  const dnnl::memory::desc layout = spec.dense_layout(position);
  if (!spec.has_gaps(position)) return {id, Place::argument(position), layout};
  const Place copy = kernel.reserve(layout.get_size());
  add_copy(kernel, {DNNL_ARG_FROM, Place::argument(position), spec.layout(position)},
           {DNNL_ARG_TO, copy, layout});
  return {id, copy, layout};
}

DenseOutput::DenseOutput(Kernel& kernel, const Spec& spec, int position)
    : position_(position),
      layout_(spec.dense_layout(position)),
      destination_(spec.layout(position)),
      place_(spec.has_gaps(position) ? kernel.reserve(layout_.get_size())
                                     : Place::argument(position)) {}

void DenseOutput::copy_out(Kernel& kernel) const {
  if (place_.position == position_) return;
  add_copy(kernel, {DNNL_ARG_FROM, place_, layout_},
           {DNNL_ARG_TO, Place::argument(position_), destination_});
}

namespace {

// Memory of its own. Large weights are streamed once per run, which takes fewer page walks, hence
// less time, from huge pages.
std::shared_ptr<dnnl::memory> allocate(const dnnl::memory::desc& layout) {
  constexpr size_t kHugePage = size_t{2} << 20;
  const size_t nbytes = layout.get_size();
  const size_t alignment = nbytes < kHugePage ? kCacheLine : kHugePage;
  const size_t rounded = (std::max<size_t>(nbytes, 1) + alignment - 1) / alignment * alignment;
  void* data = std::aligned_alloc(alignment, rounded);
  if (data == nullptr) throw std::bad_alloc();
  // Advice only: where huge pages are switched off nothing changes. Not for the last part, which
  // would be resident in full.
  if (alignment == kHugePage) madvise(data, nbytes / kHugePage * kHugePage, MADV_HUGEPAGE);
  return {new dnnl::memory(layout, cpu_engine(), data), [data](dnnl::memory* memory) {
            delete memory;
            std::free(data);
          }};
}

}  // namespace

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
  const auto memory = allocate(wanted);
  dnnl::stream stream(cpu_engine());
  dnnl::memory from = original;
  dnnl::reorder(from, *memory).execute(stream, from, *memory);
  stream.wait();
  cache->push_back({data, source, wanted, memory});
  return memory;
}

}  // namespace top::onednn
