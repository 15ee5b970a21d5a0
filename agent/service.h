// agent/service.h — wyvern.agent.v1.Agent: the handlers of the API, the containers, and the processes beside them.
// Threads: the loop's thread; no handler blocks it longer than a few system calls take.
// Trust:   the caller is the host (accept filter of the listener). What containers do reaches us by exit statuses, cgroup files and
//          bytes of stdio only.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "agent/block_storage.h"
#include "agent/container.h"
#include "agent/dial.h"
#include "agent/guest_processes.h"
#include "agent/guest_volumes.h"
#include "agent/host_sockets.h"
#include "agent/idle_cache.h"
#include "agent/network.h"
#include "agent/pod.h"
#include "agent/policy.h"
#include "base/event_loop.h"
#include "proto/agent.pb.h"
#include "ttrpc/server.h"

namespace wyvern::agent {

struct TimelinePoint {
  std::string name;
  uint64_t boottime_ns;
};

struct ServiceOptions {
  std::string root_dir = "/run/wyvern";  // containers/, pod/, share/
  // False in tests on a machine that is not ours: its clock, name, entropy, mounts and network are left alone.
  bool owns_machine = true;
  std::vector<TimelinePoint> timeline;
  std::optional<std::string> allow{};  // of Policy
  BlockStorageOptions disks;
  VolumeOptions volumes;
  std::string sockets = "/run/wyvern/sockets";
};

class Service {
 public:
  static Result<std::unique_ptr<Service>> Create(EventLoop& loop, Reaper& reaper, Crun& crun,
                                                 StdioHub& stdio, ServiceOptions options);
  ~Service();
  Service(const Service&) = delete;
  Service& operator=(const Service&) = delete;

  void Register(ttrpc::Server& server);
  // Every process of containers and of the guest itself; a test's end. A guest's is that of its machine.
  void KillAll();

 private:
  template <typename T>
  using Responder = ttrpc::Responder<T>;

  Service(EventLoop& loop, Reaper& reaper, Crun& crun, StdioHub& stdio, ServiceOptions options);

  void RegisterSandboxCalls(ttrpc::Server& server);
  void RegisterProcessCalls(ttrpc::Server& server);
  void RegisterContainerCalls(ttrpc::Server& server);
  void RegisterDeviceCalls(ttrpc::Server& server);

  Result<v1::HelloResponse> Hello(const v1::HelloRequest& request);
  Result<v1::CreateSandboxResponse> CreateSandbox(const v1::CreateSandboxRequest& request);
  void CreateContainer(const v1::CreateContainerRequest& request,
                       Responder<v1::CreateContainerResponse> responder);
  void DeleteProcess(const v1::ProcessRef& request, Responder<v1::WaitProcessResponse> responder);
  void SyncFilesystems(std::function<void(Result<>)> done);
  void DetachShare(const v1::DetachShareRequest& request, Responder<v1::Empty> responder);
  Result<std::shared_ptr<Container>> Find(const std::string& id) const;
  // The policy's refusal first.
  Result<std::shared_ptr<Container>> FindTo(Policy::What what, const std::string& id) const;
  Result<> CheckStdin(const v1::Stdio& stdio) const;
  // `id` empty: those in the guest itself.
  Result<std::shared_ptr<ProcessTable>> FindProcesses(const std::string& id) const;
  void OnOom(const std::string& id, OomWatch::Reach reach);
  void Tell(const v1::Event& event);

  Crun& crun_;
  const ServiceOptions options_;
  const Policy policy_;
  std::unique_ptr<OomWatch> oom_;
  IdleCache idle_cache_;
  Pod pod_;
  Dialer dialer_;
  std::unique_ptr<Environment> environment_;
  std::map<std::string, std::shared_ptr<Container>> containers_;
  std::shared_ptr<GuestProcesses> guest_;
  BlockStorage disks_;
  GuestNetwork network_;
  GuestVolumes volumes_;
  HostSockets sockets_;
  std::vector<ttrpc::ServerStream<v1::Event>> watchers_;
  bool sandbox_created_ = false;
};

}  // namespace wyvern::agent
