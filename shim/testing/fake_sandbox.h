// testing/fake_sandbox.h — runtime::Sandbox with local processes instead of a microVM: everything above the runtime can be tested without KVM.
// Shape:   a container's init is what its config.json says, run on this host (in <bundle>/rootfs when rootfs mounts were given). When an init
//          dies its execs are killed, as a pid namespace does. Die() plays the death of the VM.
// Faults:  `before` sees each operation first and may delay it or fail it ("shutdown" only delay).
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>

#include "sandbox/sandbox.h"
#include "testing/fake_process.h"

namespace wyvern::shim {

class FakeSandbox final : public runtime::Sandbox {
 public:
  using Hook = std::function<Result<>(const std::string& operation)>;

  explicit FakeSandbox(runtime::SandboxOptions options, Hook before = nullptr);
  ~FakeSandbox() override;
  FakeSandbox(const FakeSandbox&) = delete;
  FakeSandbox& operator=(const FakeSandbox&) = delete;

  // Everything is killed; the death callback runs.
  void Die(const std::string& reason);
  void Oom(const std::string& container_id);
  // Before the first container: mounts of a rootfs are not made, and processes see the host's files.
  void IgnoreRootfs();

  Result<runtime::ProcessIo> CreateContainer(const runtime::ContainerOptions& options) override;
  Result<runtime::ProcessIo> AddExec(const std::string& id, const std::string& exec_id,
                                     const std::string& process_json,
                                     const runtime::IoWanted& io) override;
  Result<> StartProcess(const std::string& id, const std::string& exec_id) override;
  Result<runtime::ExitInfo> Wait(const std::string& id, const std::string& exec_id) override;
  Result<> Signal(const std::string& id, const std::string& exec_id, int signal, bool all) override;
  Result<> ResizeTerminal(const std::string& id, const std::string& exec_id, uint32_t rows,
                          uint32_t columns) override;
  Result<> CloseStdin(const std::string& id, const std::string& exec_id) override;
  Result<runtime::ExitInfo> DeleteProcess(const std::string& id,
                                          const std::string& exec_id) override;
  Result<runtime::ProcessState> State(const std::string& id, const std::string& exec_id) override;
  Result<> PauseContainer(const std::string& id) override;
  Result<> ResumeContainer(const std::string& id) override;
  Result<> UpdateContainer(const std::string& id, const std::string& resources_json) override;
  // 1 to 4 vCPUs, 256 to 1024 MiB; one thread is ours.
  Result<runtime::SandboxSize> Resize(const runtime::SizeWish& wish) override;
  Result<runtime::SandboxSize> Size() override;

  Result<runtime::VolumeUsage> DirectVolume(const std::string& path, uint64_t grow_to) override {
    if (path != "/fake/volume") {
      return Fail(Code::kNotFound, "not here");
    }
    return runtime::VolumeUsage{grow_to > 0 ? grow_to : 1000, 600, 400, 10, 7, 3};
  }

  Result<std::vector<std::pair<pid_t, std::string>>> Pids(const std::string& id) override;
  Result<runtime::ContainerStats> Stats(const std::string& id) override;
  std::vector<std::string> ContainerIds() override;
  size_t ContainerCount() override;

  std::string KernelRelease() override { return "6.12.0-fake"; }

  runtime::ConsoleTail ConsoleLog() override { return {"fake console\n", 99}; }

  std::vector<runtime::TimelinePoint> Timeline() override { return {{"vmm-exec", 0, 1000}}; }

  std::string EffectiveConfig() override { return "vm:\n  vcpus: 1  # built-in\n"; }

  // Some figures of each kind.
  observe::Observation Observe() override;

  observe::EventLog& Events() override { return events_; }

  void OnDeath(std::function<void(std::string reason)> callback) override;
  void OnOom(std::function<void(std::string container_id)> callback) override;
  Result<> Shutdown() override;

 private:
  using Key = std::pair<std::string, std::string>;  // container, exec

  Result<> Check(const std::string& operation);
  Result<std::shared_ptr<FakeProcess>> Find(const std::string& id, const std::string& exec_id);
  void KillAll();

  const runtime::SandboxOptions options_;
  const Hook before_;
  observe::EventLog events_;
  std::mutex mu_;
  // Guarded by mu_:
  bool dead_ = false;
  bool down_ = false;
  bool ignore_rootfs_ = false;
  uint32_t vcpus_ = 1;
  uint64_t memory_ = 256U << 20U;
  std::map<Key, std::shared_ptr<FakeProcess>> processes_;
  std::set<Key> missing_;                       // execs whose program does not exist
  std::map<std::string, std::string> mounted_;  // container → its mounted rootfs
  std::function<void(std::string)> on_death_;
  std::function<void(std::string)> on_oom_;
};

}  // namespace wyvern::shim
