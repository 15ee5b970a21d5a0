// sandbox/pod_network.h — what is in the sandbox's network namespace on the host is in its guest, now and later.
// Life:    Sync as often as somebody may have changed something; Watch does it by itself; Close before the namespace's descriptor goes.
// Errors:  an interface that cannot be given to the guest is an error of Sync, told once; the others are connected all the same, and it is tried
//          again each time.
// Trust:   names and numbers of interfaces are those of whoever filled the namespace; the agent may stall or lie: its calls have limits.
// Threads: any, but for the loop that Watch is given: Sync waits for machine and guest.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "agent_client/agent_client.h"
#include "base/loop_thread.h"
#include "hypervisor/machine.h"
#include "network/scan.h"
#include "network/watch.h"

namespace wyvern::runtime {

class PodNetwork {
 public:
  struct Options {
    std::string id;           // of the sandbox, for log lines
    FdRef network_namespace;  // these three outlive it, or Close comes before they go
    Machine* machine = nullptr;
    AgentClient* agent = nullptr;
    unsigned queues = 1;  // pairs, of each interface
    // Of each interface, bytes a second; 0: no limit.
    uint64_t receive_rate = 0;  // to the guest
    uint64_t transmit_rate = 0;
    // Told before an interface is touched, and after one was let go: all that are connected, by index.
    std::function<Result<>(const std::vector<int>& connected)> record;
  };

  explicit PodNetwork(Options options) : options_(std::move(options)) {}

  ~PodNetwork() { static_cast<void>(Close()); }

  PodNetwork(const PodNetwork&) = delete;
  PodNetwork& operator=(const PodNetwork&) = delete;

  // The guest has what the namespace has when this returns. After Close: nothing.
  Result<> Sync();

  // Calls `changed` on the loop when Sync is due.
  Result<> Watch(LoopThread& loop, std::function<void()> changed);

  // The namespace is as it was before. The guest is not asked, nor its machine. Idempotent; after an error what could not be disconnected is
  // in the record still, and tried again by the next call.
  Result<> Close();

 private:
  Result<> Connect(const Interface& interface);
  void Disconnect(int index);
  void TellLeftOut(const std::vector<std::string>& lines);
  Result<> Record();

  const Options options_;
  LoopThread* loop_ = nullptr;
  std::unique_ptr<NetworkWatch> watch_;  // on the loop
  std::mutex mu_;                        // held while machine and guest are waited for
  NetworkScan given_;                    // what the guest has, or is to have
  bool guest_due_ = false;               // it was not told, or did not do it
  std::map<int, std::string> devices_;   // by the interface's index: the machine's name of it
  std::set<std::string> told_;
  uint64_t next_ = 0;
  bool closed_ = false;
};

}  // namespace wyvern::runtime
