#include "runtime/serving/launcher.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace top {
namespace {

constexpr double kUnlimited = std::numeric_limits<double>::infinity();

Nanoseconds due(const Task& task) {
  return std::min(task.deadline_ns, task.submitted_ns + Launcher::kPatience) -
         task.priority * Launcher::kPatience;
}

}  // namespace

Launcher::Launcher(int models, double slack_us) : models_(models), slack_us_(slack_us) {
  for (Model& model : models_) model.frequency = kUnlimited;
}

void Launcher::set_frequency(int model, double tasks, double period_us, Nanoseconds now) {
  Model& m = models_[model];
  const bool was_limited = m.per_ns > 0;
  m.tokens = tokens(m, now);
  m.refilled_ns = now;
  m.frequency = tasks;
  m.per_ns = std::isinf(tasks) ? 0 : tasks / (period_us * 1e3);
  m.burst = std::isinf(tasks) ? 1 : std::max(tasks, 1.0);
  m.tokens = was_limited ? std::min(m.tokens, m.burst) : m.burst;
}

double Launcher::tokens(const Model& model, Nanoseconds now) const {
  const auto elapsed = static_cast<double>(now - model.refilled_ns);
  return std::min(model.burst, model.tokens + elapsed * model.per_ns);
}

bool Launcher::may_launch(int model, Nanoseconds now) const {
  const Model& m = models_[model];
  return m.per_ns == 0 || tokens(m, now) >= 1;
}

void Launcher::became_active(int model) {
  models_[model].virtual_us = std::max(models_[model].virtual_us, virtual_us_);
}

int Launcher::choose(const std::vector<const Task*>& fronts) const {
  double last_us = kUnlimited;
  for (size_t m = 0; m < fronts.size(); ++m) {
    if (fronts[m] != nullptr) last_us = std::min(last_us, models_[m].virtual_us);
  }
  int chosen = -1;
  for (size_t m = 0; m < fronts.size(); ++m) {
    if (fronts[m] == nullptr || models_[m].virtual_us > last_us + slack_us_) continue;
    if (chosen < 0 || due(*fronts[m]) < due(*fronts[chosen])) chosen = static_cast<int>(m);
  }
  return chosen;
}

void Launcher::launched(int model, int tasks, double work_us, Nanoseconds now) {
  Model& m = models_[model];
  virtual_us_ = std::max(virtual_us_, m.virtual_us);
  m.virtual_us += work_us;
  if (m.per_ns > 0) {
    m.tokens = tokens(m, now) - tasks;  // a batch may run into debt
    m.refilled_ns = now;
  }
}

}  // namespace top
