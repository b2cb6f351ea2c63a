// Devices that do not exist: what an instance in a segment takes, on a virtual clock.
#pragma once

#include <vector>

#include "runtime/serving/simulated_streams.h"
#include "runtime/serving/task_scheduler.h"

namespace top {

class VirtualDevice {
 public:
  virtual ~VirtualDevice() = default;
  // The instance enters its segment; `wakes`: the device was idle.
  virtual void start(int handle, const Instance& instance, bool wakes) = 0;
  // Lets time pass until an instance has finished its segment, and returns its handle; or until
  // that moment, and returns -1. Without anything to do, forever is at once.
  virtual int run_until(double until_us) = 0;
  virtual double now_us() const = 0;
  // Time that a stream has been busy so far.
  virtual double busy_us(int stream) const = 0;
};

// Executes every op of the plans, as the simulator says.
class OpDevice : public VirtualDevice {
 public:
  // `plans`: by the numbers in the variants' lanes, per model. Throws std::invalid_argument for
  // what does not fit the device or each other. The variants must live on.
  OpDevice(const VariantSet& set, std::vector<std::vector<SimulatedPlan>> plans,
           const Device& device);

  void start(int handle, const Instance& instance, bool wakes) override;
  int run_until(double until_us) override { return streams_.run_until(until_us); }
  double now_us() const override { return streams_.now_us(); }
  double busy_us(int stream) const override { return streams_.busy_us(stream); }

 private:
  const VariantSet& set_;
  const std::vector<std::vector<SimulatedPlan>> plans_;
  const Device device_;
  SimulatedStreams streams_;
};

// Knows of an instance what was measured of its variant: the time that it takes alone, and that of
// the device that it needs under a backlog. Instances share the device equally as soon as together
// they need more than there is of it. Much faster than single ops.
class SegmentDevice : public VirtualDevice {
 public:
  // The variants must live on.
  SegmentDevice(const VariantSet& set, double wake_us) : set_(set), wake_us_(wake_us) {}

  void start(int handle, const Instance& instance, bool wakes) override;
  int run_until(double until_us) override;
  double now_us() const override { return now_us_; }
  double busy_us(int) const override { return busy_us_; }
  // Twice as slow: 0.5. From now on.
  void set_speed(double speed) { speed_ = speed; }

 private:
  struct Running {
    int handle;
    double left_us;  // at full speed
    double share;    // of the device, at full speed
  };

  void advance(double time_us);

  const VariantSet& set_;
  const double wake_us_;
  std::vector<Running> running_;
  double needed_ = 0;  // sum of the shares
  double speed_ = 1;
  double now_us_ = 0;
  double busy_us_ = 0;
};

}  // namespace top
