// container/disks.h — the disks that a container has in its guest: the VMM's device, and what the agent did with it. Made one by one, undone in
//                     reverse.
// State:   each is in the state file before the VMM has it. The VMM holds the only descriptor: its end frees them all.
// Trust:   the guest. What it says of a disk (its numbers) goes back into the guest and nowhere else; that it refuses a disk is an error, never a
//          reason for the host to mount the disk itself.
// Threads: one at a time.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "agent_client/agent_client.h"
#include "base/fd.h"
#include "hypervisor/machine.h"
#include "oci/spec.h"
#include "state/state.h"

namespace wyvern::runtime {

// How much of the guest there is when a container goes.
enum class GuestState : uint8_t {
  kObeys,
  kDisobeys,  // its agent is not asked; the machine runs
  kGone,      // no process of the machine is left
};

class ContainerDisks {
 public:
  struct Disk {
    std::string name;    // also its serial and its id in the VMM
    std::string source;  // for people
    FdRef file;
    bool read_only = false;
    std::string filesystem{};  // empty: not mounted
    uint64_t flags = 0;        // MS_*
    std::string options{};
  };

  using Recorder = std::function<Result<>(const DiskRecord&)>;

  // `machine` and `agent` outlive it; `record` is called before each disk is attached.
  ContainerDisks(std::string container_id, Machine& machine, AgentClient& agent, Recorder record)
      : id_(std::move(container_id)),
        machine_(machine),
        agent_(agent),
        record_(std::move(record)) {}

  // As the guest numbers it. After an error it is released with the rest.
  Result<oci::DeviceNumber> Attach(const Disk& disk);
  // All are written back, unmounted and detached when it returns; what the guest does not let go of is taken from it. Goes on after a failure
  // and returns the first one: that one's device is still the VMM's, and the next call tries again.
  Result<> Release(GuestState guest);

 private:
  // False: the guest has not let go.
  bool RemoveInGuest(const std::string& name, GuestState& guest);

  const std::string id_;
  Machine& machine_;
  AgentClient& agent_;
  const Recorder record_;
  std::vector<std::string> names_;
};

}  // namespace wyvern::runtime
