// sandbox/sandbox_impl.h — the Sandbox behind sandbox.h. Internal to sandbox/.
// Locks:   mu_ guards the tables and the states; it is never held over a call to agent, VMM or kernel that can take long.
//          shutdown_mu_ before mu_. resize_mu_ before limits_mu_ before mu_. resize_mu_ is held by one update after the other, and while the guest
//          changes its size, which can take as long as timeouts.resize allows, several times over; the machine's end releases it.
// Threads: callers' threads; loop_ (anchors' deaths, delays); pool_ for what a death starts; callbacks of agent client and machine,
//          which only post to the loop.
#pragma once

#include <atomic>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <stop_token>
#include <string>
#include <vector>

#include "agent_client/agent_client.h"
#include "base/cache_reclaim.h"
#include "base/loop_thread.h"
#include "cgroup/cgroup.h"
#include "config/config.h"
#include "container/hooks.h"
#include "container/host_container.h"
#include "hypervisor/machine.h"
#include "network/netns.h"
#include "oci/spec.h"
#include "sandbox/guest_sizer.h"
#include "sandbox/host_limits.h"
#include "sandbox/pod_forward.h"
#include "sandbox/pod_network.h"
#include "sandbox/sandbox.h"
#include "sandbox/sizing.h"
#include "sandbox/timeline.h"
#include "sandbox/vcpu_pins.h"
#include "state/state.h"
#include "ttrpc/blocking.h"

namespace wyvern::runtime {

// oom_score.cc: what a container wants to count for when the host is short of memory. None: it does not say, or is a pod's pause.
std::optional<int> OomScoreOf(const oci::Facts& facts);
Result<> SetOomScore(pid_t pid, int score);

// What tests put in place of the product's parts.
struct Backend {
  std::function<std::unique_ptr<Machine>(MachineOptions)> make_machine = MakeMicroVm;
  StateStore::StepHook step;  // see StateStore
  Patience patience;
};

// memory.cc: what the agent is asked for.
agent_pb::CacheReclaim GuestReclaim(Config::Memory::Reclaim reclaim);

Result<std::unique_ptr<Sandbox>> StartSandbox(SandboxOptions options, Backend backend);

struct Process {
  ProcessStatus status = ProcessStatus::kCreated;
  bool starting = false;
  bool start_told = false;  // of an init: its event
  bool terminal = false;
  bool killed = false;  // an init that was sent SIGKILL: its end is awaited
  std::optional<uint32_t>
      reported;  // by the guest, of an init: it becomes the exit when what it wrote is on the host
  std::optional<ExitInfo> exit;
};

struct Container {
  std::string id;
  bool stands_for_pod = false;  // pod.cc; set before others see it
  std::unique_ptr<HostContainer> host;
  Limits limits;        // as config.json and updates since want them
  bool counts = false;  // the sandbox has what its limits ask for
  std::map<std::string, std::shared_ptr<Process>> processes;  // "": the init
  bool created = false;                                       // CreateContainer is done
  bool paused = false;
  bool deleting = false;
  bool oom = false;           // being told
  bool written_back = false;  // nothing of it runs, and what it wrote is on the host
  pid_t anchor_pid = 0;
  bool anchor_ended = false;  // the pid may be another's
  bool hooked = false;  // its create hooks have begun; of the thread that creates or deletes it
  EventLoop::Token anchor_watch = EventLoop::Token::kNone;  // loop thread only

  // Its init has ended.
  bool Stopped() const {
    const auto init = processes.find("");
    return init != processes.end() && init->second->exit.has_value();
  }
};

class SandboxImpl final : public Sandbox {
 public:
  SandboxImpl(SandboxOptions options, Backend backend);
  ~SandboxImpl() override;
  SandboxImpl(const SandboxImpl&) = delete;
  SandboxImpl& operator=(const SandboxImpl&) = delete;

  // start.cc
  Result<> Start();

  Result<ProcessIo> CreateContainer(const ContainerOptions& options) override;
  Result<ProcessIo> AddExec(const std::string& id, const std::string& exec_id,
                            const std::string& process_json, const IoWanted& io) override;
  Result<> StartProcess(const std::string& id, const std::string& exec_id) override;
  Result<ExitInfo> Wait(const std::string& id, const std::string& exec_id) override;
  Result<> Signal(const std::string& id, const std::string& exec_id, int signal, bool all) override;
  Result<> ResizeTerminal(const std::string& id, const std::string& exec_id, uint32_t rows,
                          uint32_t columns) override;
  Result<> CloseStdin(const std::string& id, const std::string& exec_id) override;
  Result<ExitInfo> DeleteProcess(const std::string& id, const std::string& exec_id) override;
  Result<ProcessState> State(const std::string& id, const std::string& exec_id) override;
  Result<> PauseContainer(const std::string& id) override;
  Result<> ResumeContainer(const std::string& id) override;
  Result<> UpdateContainer(const std::string& id, const std::string& resources_json) override;
  Result<SandboxSize> Resize(const SizeWish& wish) override;
  Result<SandboxSize> Size() override;
  Result<VolumeUsage> DirectVolume(const std::string& path, uint64_t grow_to) override;
  Result<std::vector<std::pair<pid_t, std::string>>> Pids(const std::string& id) override;
  Result<ContainerStats> Stats(const std::string& id) override;
  std::vector<std::string> ContainerIds() override;
  size_t ContainerCount() override;
  std::string KernelRelease() override;
  ConsoleTail ConsoleLog() override;
  void LogConsole();  // its end, as an error
  Result<> CheckAlive();
  std::vector<TimelinePoint> Timeline() override;
  std::string EffectiveConfig() override;
  observe::Observation Observe() override;
  observe::EventLog& Events() override;
  void OnDeath(std::function<void(std::string reason)> callback) override;
  void OnOom(std::function<void(std::string container_id)> callback) override;
  Result<> Shutdown() override;

 private:
  using ContainerPtr = std::shared_ptr<Container>;
  using ProcessPtr = std::shared_ptr<Process>;

  // Counts a create or delete for as long as it lives.
  class Busy {
   public:
    explicit Busy(SandboxImpl& sandbox) : sandbox_(sandbox) {
      const std::lock_guard lock(sandbox_.mu_);
      ++sandbox_.busy_;
    }

    ~Busy() {
      const std::lock_guard lock(sandbox_.mu_);
      --sandbox_.busy_;
      sandbox_.changed_.notify_all();
    }

    Busy(const Busy&) = delete;
    Busy& operator=(const Busy&) = delete;

   private:
    SandboxImpl& sandbox_;
  };

  // start.cc
  Result<> CheckCancelled() const;
  Result<> ReadBundle();
  Result<> OpenState();
  Result<> MakeCgroup();
  Result<> StartMachine();
  Result<> BootMachine();
  Result<> ConnectAgent();
  void FindDiskFilesystems();

  // network.cc
  Result<> OpenNetwork();
  Result<> UseHostNetwork();
  std::optional<UserNetwork> UserNetworkOptions() const;
  Result<> ConnectNetwork();
  void ForwardLoopback();
  Result<> SyncNetwork();
  Result<> CloseNetwork();

  // memory.cc
  void TellOom(const std::string& id);
  void TellGuestOom(const std::string& id);
  void WatchHostCache();
  void HostCacheRound();
  bool WantsHostCache();

  // containers.cc
  Result<ContainerPtr> AddContainer(const ContainerOptions& options);
  Result<ProcessIo> MakeContainer(const ContainerPtr& container, const ContainerOptions& options);
  Result<StdioStreams> CreateInGuest(const ContainerPtr& container, const IoWanted& io);
  Result<> RunHooksOf(const ContainerPtr& container);
  void RunPoststop(const ContainerPtr& container);
  Result<> KillAndDeleteInGuest(const std::string& id);
  void UndoCreate(const ContainerPtr& container, bool in_guest);
  Result<> ReleaseContainer(const ContainerPtr& container, bool guest_obeys);
  void EndUnstarted(const ContainerPtr& container, const ProcessPtr& init);
  bool DeleteInGuest(const ContainerPtr& container);
  void WatchAnchor(const ContainerPtr& container);
  void UnwatchAnchor(const ContainerPtr& container);
  void EndAnchor(const ContainerPtr& container);
  Result<ExitInfo> DeleteInit(const ContainerPtr& container, const ProcessPtr& init);
  Result<ExitInfo> DeleteExec(const ContainerPtr& container, const std::string& exec_id,
                              const ProcessPtr& exec);
  HookState HookStateOf(const Container& container, const char* status, pid_t pid) const;

  // pod.cc: the container that only stands for a pod is on the host alone; its end is the end of all the others.
  Result<agent_pb::CreateSandboxRequest> GuestSandbox() const;
  Result<> ShareBindMounts();
  Result<> CheckPod();
  static Result<StdioStreams> PauseStreams(const IoWanted& io);
  Result<> SignalPause(const ContainerPtr& pause, const ProcessPtr& init, int signal);
  void EndPod(const ContainerPtr& pause, const ProcessPtr& init, uint32_t status);
  std::vector<std::pair<ContainerPtr, ProcessPtr>> OthersAlive(
      const ContainerPtr& pause) const;  // with mu_ held
  static ContainerStats PauseStats();

  // oom_score.cc
  void AdjustOomScore();

  // resize.cc
  SizePlan PlanMachine(MachineOptions& machine) const;
  Result<> LimitHost(uint64_t guest_memory);
  Result<uint64_t> MemoryInUse(uint64_t memory) const;  // see GuestSizer; asks the guest
  Need NeedOfContainers();                              // takes mu_
  GuestSize WantedSize();                               // with resize_mu_ held
  Result<> GrowTo(const GuestSize& wanted);             // with resize_mu_ held
  Result<> Grow();
  void ShrinkSoon();
  void ShrinkAfterExit();
  void Shrink();
  // limits.cc
  Result<>
  ApplyHostLimits();  // by the limits of the containers as they are now; takes limits_mu_, then mu_
  Result<> GrantHostLimits(const ContainerPtr& container);
  void ReduceHostLimits();
  void PinVcpus();  // sandbox.pin_vcpus, to what the last ApplyHostLimits granted; takes limits_mu_

  // observe.cc
  void TellStarted(const std::string& id, const ProcessPtr& init);                  // takes mu_
  void TellExited(const std::string& id, const ProcessPtr& init, uint32_t status);  // takes mu_

  // guest_exec.cc
  Result<> CheckGuestExec() const;
  Result<> AddProcess(const std::string& id, const std::string& exec_id,
                      const std::string& process_json, const agent_pb::Stdio& stdio);

  // processes.cc
  Result<ContainerPtr> FindContainer(const std::string& id);
  Result<ProcessPtr> FindProcess(const std::string& id, const std::string& exec_id,
                                 ContainerPtr* container = nullptr);
  bool WriteBack(const Container& container, std::chrono::milliseconds limit);
  void AwaitExit(const ContainerPtr& container, const std::string& exec_id,
                 const ProcessPtr& process);
  void OnWaitFailed(const ContainerPtr& container, const std::string& exec_id,
                    const ProcessPtr& process, const Error& error);
  void SetExited(const ProcessPtr& process, uint32_t status);  // takes mu_
  bool HasEnded(const ProcessPtr& process);                    // takes mu_
  Result<> KillInit(const ContainerPtr& container, const ProcessPtr& init, bool all);

  // death.cc
  void Die(std::string reason);
  void DieSoon(std::string reason);
  void OnMachineEvent(const MachineEvent& event);
  void OnAnchorDeath(const ContainerPtr& container);
  std::vector<ProcessPtr> AllProcesses() const;  // with mu_ held
  std::vector<ContainerPtr> Settle();
  Result<> ReleaseAll();

  const SandboxOptions options_;
  const Backend backend_;
  const Config& config_;
  oci::Facts facts_;  // of the bundle that the sandbox was started with
  TimelineRecorder timeline_;
  observe::EventLog events_;  // its lock is a leaf
  std::unique_ptr<StateStore> state_;
  std::optional<Cgroup> cgroup_;
  std::optional<CacheReclaim> host_cache_;  // of cgroup_; one round at a time, in the pool
  UniqueFd network_;                        // its namespace on the host
  UniqueFd
      anchor_;  // the program, for containers to come: its path may be another version's then, or nobody's
  bool user_network_ = false;  // that is the host's own, of which the guest has nothing but passt
  std::unique_ptr<Machine> machine_;
  std::unique_ptr<AgentClient> agent_;
  std::unique_ptr<PodNetwork> pod_network_;  // set before there are containers
  std::unique_ptr<PodForward> pod_forward_;  // the same; null: none
  std::unique_ptr<SandboxVolumes> volumes_;  // likewise
  std::unique_ptr<HostSockets> sockets_;     // set before the agent's events are heard
  SharedExports shared_exports_;
  std::vector<std::string>
      disk_filesystems_;  // that the guest mounts; set before there are containers
  std::vector<oci::GuestHook> guest_hooks_;  // the same
  std::unique_ptr<LoopThread> loop_;
  std::unique_ptr<ttrpc::BlockingPool> pool_;
  std::atomic<uint32_t> next_index_{0};
  PodNamespaces pod_namespaces_;  // its lock is a leaf

  std::stop_source stop_hooks_;  // by Shutdown, which waits for who runs them

  std::mutex resize_mu_;
  std::optional<GuestSizer> sizer_;  // made with the machine; guarded by resize_mu_, but for plan()
  SizeWish wish_;                    // guarded by resize_mu_
  GuestSize told_cut_;      // guarded by resize_mu_: the last that was more than it can have
  std::mutex limits_mu_;    // held while systemd is asked
  HostLimits host_limits_;  // guarded by limits_mu_
  VcpuPins pins_;           // guarded by limits_mu_

  std::mutex shutdown_mu_;
  bool shut_down_ = false;  // guarded by shutdown_mu_

  std::mutex mu_;
  std::condition_variable changed_;
  std::map<std::string, ContainerPtr> containers_;
  // What runs in the guest itself, as a container without id, init and host side.
  const ContainerPtr guest_ = std::make_shared<Container>();
  int busy_ = 0;  // creates and deletes under way: Shutdown waits for them
  bool stopping_ = false;
  bool shrink_asked_ = false;         // since the thread that shrinks last looked
  bool shrinks_ = false;              // there is that thread
  std::optional<std::string> death_;  // why; set once
  bool pod_ends_ = false;             // what stands for it has ended: there is no new container
  std::function<void(std::string)> on_death_;
  std::function<void(std::string)> on_oom_;
  bool death_told_ = false;
};

}  // namespace wyvern::runtime
