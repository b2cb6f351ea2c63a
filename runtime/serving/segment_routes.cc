#include "runtime/serving/segment_routes.h"

#include <algorithm>
#include <map>
#include <set>
#include <stdexcept>

#include "runtime/workspace.h"

namespace top {
namespace {

struct Known {
  Place place;
  size_t nbytes;
};

[[noreturn]] void refuse(const std::string& tensor, const std::string& what) {
  throw std::invalid_argument("Tensor '" + tensor + "' " + what + ".");
}

void check_size(const TensorData& tensor, size_t expected) {
  if (tensor.nbytes != expected) {
    refuse(tensor.name, "has " + std::to_string(tensor.nbytes) + " bytes in a segment, but " +
                            std::to_string(expected) + " are expected");
  }
}

}  // namespace

Routes link_segments(const std::vector<const PlanData*>& plans,
                     const std::vector<BoundaryTensor>& inputs,
                     const std::vector<BoundaryTensor>& outputs, int tasks) {
  Routes routes;
  std::map<std::string, Known> known, model_outputs;
  for (size_t i = 0; i < inputs.size(); ++i) {
    known[inputs[i].name] = {{Place::Kind::kInput, static_cast<int>(i), 0},
                             inputs[i].nbytes * tasks};
  }
  for (size_t i = 0; i < outputs.size(); ++i) {
    model_outputs[outputs[i].name] = {{Place::Kind::kOutput, static_cast<int>(i), 0},
                                      outputs[i].nbytes * tasks};
  }
  std::set<std::string> written;
  for (const PlanData* plan : plans) {
    SegmentRoute& route = routes.segments.emplace_back();
    routes.arena_bytes = std::max(routes.arena_bytes, plan->arena_bytes);
    for (int index : plan->inputs) {
      const TensorData& tensor = plan->tensors[index];
      const auto found = known.find(tensor.name);
      if (found == known.end()) refuse(tensor.name, "is read by a segment before it is written");
      check_size(tensor, found->second.nbytes);
      route.inputs.push_back(found->second.place);
    }
    for (int index : plan->outputs) {
      const TensorData& tensor = plan->tensors[index];
      if (!written.insert(tensor.name).second) refuse(tensor.name, "is written by two segments");
      const auto output = model_outputs.find(tensor.name);
      if (output != model_outputs.end()) {
        check_size(tensor, output->second.nbytes);
        known[tensor.name] = output->second;
      } else if (known.count(tensor.name) != 0) {
        refuse(tensor.name, "is an input of the model, but written by a segment");
      } else {
        known[tensor.name] = {{Place::Kind::kBetween, 0, routes.between_bytes}, tensor.nbytes};
        routes.between_bytes += round_up(tensor.nbytes);
      }
      route.outputs.push_back(known[tensor.name].place);
    }
  }
  for (const BoundaryTensor& output : outputs) {
    if (written.count(output.name) == 0) refuse(output.name, "is an output that nothing writes");
  }
  return routes;
}

}  // namespace top
