// What may be executed: the numbers about variants that decisions are made from.
#pragma once

#include <string>
#include <vector>

#include "runtime/serving/task.h"

namespace top {

// What an instance in one lane executes.
struct Lane {
  int first_stream = 0;                 // of the device: stream 0 of the plans
  std::vector<std::vector<int>> plans;  // numbers of the model's plans, [batch size][segment]
};

// How one model is executed under a variant.
struct ModelVariant {
  int segments = 1;
  std::vector<Lane> lanes;  // as many instances may be in one segment at a time
  // By index of the batch size, for the model's smallest ones (all of them, or fewer):
  // time of an instance that has the device to itself, in microseconds,
  std::vector<double> latency_us;
  // and of the device per instance when the pipeline is full: tasks / work_us is the capacity.
  std::vector<double> work_us;
};

struct Variant {
  std::string id;
  // Most instances in flight, of all models together; 0: as many as fit the lanes.
  int in_flight = 0;
  // Ablation: segments start together and wait for each other, period by period.
  bool barrier = false;
  double period_us = 0;
  std::vector<ModelVariant> models;
};

// Everything that is served. The variant at index 0 has the plans of least latency.
struct VariantSet {
  std::vector<std::string> models;
  std::vector<std::vector<int>> batch_sizes;  // per model, ascending
  std::vector<Variant> variants;
};

// Throws std::invalid_argument, naming variant and model, unless every list has an entry per model,
// lanes have a plan per batch size and segment, and counts and times are positive.
void validate_variants(const VariantSet& set);

}  // namespace top
