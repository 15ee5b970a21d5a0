// hotplug/vcpu_set.h — how many vCPUs run, changed together with the guest.
// Shape:   more: threads start, then CpuOnline; those that the guest did not take stop again. Fewer: CpuOffline from the highest, then the
//          threads of those that it let go stop. vCPU 0 always runs.
// Errors:  of the machine and of upcall/session.h. What was reached is in the answer; after an error it is in running().
// Threads: any; one change at a time.
// Trust:   that the guest says a CPU is offline stops nothing by itself: Stop refuses one that still runs.
#pragma once

#include <atomic>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "base/error.h"
#include "hotplug/turn.h"
#include "upcall/session.h"

namespace wyvern::hotplug {

// The machine's vCPU threads.
class VcpuThreadSwitch {
 public:
  virtual ~VcpuThreadSwitch() = default;
  virtual Result<> Start(uint32_t id) = 0;
  // FAILED_PRECONDITION: the guest has not stopped it.
  virtual Result<> Stop(uint32_t id) = 0;
};

struct VcpusReached {
  uint32_t vcpus = 0;
  std::string why;  // not as asked; empty: as asked
};

class VcpuSet {
 public:
  // vCPUs 0 to `running` - 1 run, `all` exist. Both outlive it.
  VcpuSet(VcpuThreadSwitch& threads, upcall::Session& upcall, uint32_t running, uint32_t all);

  // INVALID_ARGUMENT: none, or more than there are.
  Result<VcpusReached> Resize(uint32_t vcpus, upcall::Time deadline);

  uint32_t running() const { return count_.load(std::memory_order_relaxed); }

 private:
  Result<std::string> Grow(uint32_t vcpus, upcall::Time deadline);
  Result<std::string> Shrink(uint32_t vcpus, upcall::Time deadline);
  // Stops those of `ids` that the guest has let go. Why not all.
  std::string StopThreads(const std::vector<uint32_t>& ids);

  VcpuThreadSwitch& threads_;
  upcall::Session& upcall_;
  const uint32_t all_;
  Turn turn_;
  std::set<uint32_t> running_;  // of who has the turn
  std::atomic<uint32_t> count_{0};
};

}  // namespace wyvern::hotplug
