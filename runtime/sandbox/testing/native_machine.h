// sandbox/testing/native_machine.h — a machine without a VMM: the real agent runs on this host, in a mount namespace of the tests, and
// exports are mounted where the guest would see them. Everything above the hypervisor is the product's.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "agent_client/agent_client.h"
#include "hypervisor/machine.h"

namespace wyvern::runtime {

// Empty: native machines work here. Enters a private mount namespace, once; call before there are threads.
const std::string& WhyNoNativeMachines();

// The agent binary is WYVERN_AGENT_BINARY.
std::unique_ptr<Machine> MakeNativeMachine(const MachineOptions& options);

// What happens to the exports of a native machine, and what a test wants to go wrong.
struct ExportWatch {
  std::mutex mu;
  std::map<std::string, ExportPolicy> attached;
  std::set<std::string> busy;         // DetachExport of these fails, as while requests use them
  std::map<std::string, bool> disks;  // those attached, and whether they are read-only
  std::vector<std::string> forced;    // disks that were taken away by force
};

// How large a machine of these is, and how its guest follows. Nothing is behind it.
struct SizeWatch {
  std::mutex mu;
  uint32_t vcpus = 1;
  uint64_t memory = 0;                                  // bytes
  uint32_t most_vcpus = ~0U;                            // the guest takes no more
  uint64_t least_memory = 0;                            // the guest lets go of no more
  uint64_t most_memory = ~uint64_t{0};                  // the guest takes no more
  std::vector<std::string> calls;                       // "vcpus 4", "memory 512" (MiB)
  std::map<std::string, Code> refused;                  // calls that fail; kOk: none does
  std::function<void(const std::string& call)> before;  // called without mu; may block
};

std::unique_ptr<Machine> MakeWatchedNativeMachine(std::shared_ptr<ExportWatch> watch,
                                                  std::shared_ptr<SizeWatch> sizes = nullptr);

// A machine that boots nothing: two processes that end with us. For what happens around it.
std::unique_ptr<Machine> MakeHollowMachine(const MachineOptions& options);

// The disks and network interfaces of a hollow machine.
struct DiskWatch {
  std::mutex mu;
  std::map<std::string, UniqueFd> attached;           // until the machine's end
  std::map<std::string, std::vector<UniqueFd>> taps;  // likewise
  bool refuse_networks = false;
  std::vector<std::string> calls;  // "attach c0-root", "detach c0-root", "detach c0-root force"
  std::map<std::string, Code> refused;  // calls that fail; kOk: none does
  Machine::EventCallback events;        // from Boot on: what the VMM says
};

// The same with an agent that the test plays: it answers at its ports.
std::unique_ptr<Machine> MakeHollowMachineWithAgent(GuestConnector agent,
                                                    std::shared_ptr<DiskWatch> disks = nullptr,
                                                    std::shared_ptr<SizeWatch> sizes = nullptr);

}  // namespace wyvern::runtime
