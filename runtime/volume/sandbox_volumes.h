// volume/sandbox_volumes.h — the volumes of a sandbox that are in its guest's memory instead of on a share, and that stay what the host has.
// Memory:  an emptyDir in memory is one file system of the guest from its first container on, until the sandbox ends: containers share it and find
//          it again when they are restarted. What is on the host's own tmpfs is never read nor written.
// Files:   a ConfigMap or the like is copied into the guest, once for all containers that mount it, and again when the host changes it. What a
//          guest does to its copy is the guest's matter. One that is too large, not as kubelet writes them, or one too many is a share, with
//          a line in the log.
// Errors:  those of the agent, when a volume cannot be had in the guest; later ones are told once in the log, and tried again.
// Trust:   files are read as host_files.h says; the agent may stall or lie: each call has a limit.
// Threads: any, but for the loop's: calls wait for the guest, one after the other.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "agent_client/agent_client.h"
#include "base/loop_thread.h"
#include "oci/spec.h"
#include "volume/host_files.h"
#include "volume/volume_watch.h"

namespace wyvern::runtime {

// Of files, in a sandbox.
inline constexpr size_t kMaxFileVolumes = 64;
inline constexpr size_t kMaxFileVolumesBytes = 16U << 20;

class SandboxVolumes {
 public:
  struct Options {
    std::string id;                // of the sandbox, for log lines
    AgentClient* agent = nullptr;  // outlives it, or Close comes before it goes
    LoopThread* loop = nullptr;    // outlives it
    std::function<void(std::function<void()>)>
        run;  // work that blocks, on another thread than the loop's
  };

  explicit SandboxVolumes(Options options);

  ~SandboxVolumes() { Close(); }

  SandboxVolumes(const SandboxVolumes&) = delete;
  SandboxVolumes& operator=(const SandboxVolumes&) = delete;

  // Where the guest has `source`, which `container` is going to mount; nullopt: nowhere, it is to be shared.
  Result<std::optional<oci::GuestSource>> Take(const std::string& container,
                                               const std::string& source);
  // The container is gone, with its mounts. `tell_guest` false: the guest is not asked. Idempotent.
  void Release(const std::string& container, bool tell_guest);
  // No file is read and the guest is not asked any more. Idempotent.
  void Close();

 private:
  struct Files {
    std::string name;
    std::string version;  // that the guest has
    size_t bytes = 0;
    std::string told;  // what of the host's could not be given to the guest, the last time
    std::set<std::string> users;
  };

  // With mu_ held.
  Result<oci::GuestSource> TakeMemory(const std::string& container, const HostVolume& volume);
  Result<std::optional<oci::GuestSource>> TakeFiles(const std::string& container,
                                                    const std::string& source);
  Result<HostFiles> ReadBounded(const std::string& source, size_t instead_of) const;
  Result<> SendFiles(const std::string& name, HostFiles files);
  void Remove(const std::string& name, bool tell_guest);
  bool Update(const std::string& source, Files& files);
  void Sync();

  const Options options_;
  std::unique_ptr<VolumeWatch> watch_;
  std::mutex mu_;                                          // held while the guest is waited for
  std::map<std::string, std::string> memory_;              // by HostVolume::key: the guest's name
  std::map<std::string, std::vector<std::string>> parts_;  // by container: names
  std::map<std::string, Files> files_;                     // by source
  uint64_t next_ = 0;
  bool closed_ = false;
};

}  // namespace wyvern::runtime
