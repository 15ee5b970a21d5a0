// runtime/sandbox/sandbox.h — one microVM and the containers in it: the library under the shim and
// under `wyvern run`.
// Life:    Start → CreateContainer → StartProcess → (AddExec → StartProcess)* → Wait →
//          DeleteProcess → Shutdown.
// State:   /run/wyvern/<hash>/state.json says what exists before each side effect, so that CleanUp
//          by a fresh process can undo everything.
// Errors:  NOT_FOUND, ALREADY_EXISTS, FAILED_PRECONDITION as the task API wants them (they pass
//          through the shim unchanged).
// Threads: every method may block (agent calls) and may be called from any thread; Wait from many.
//          Callbacks run on an internal thread.
// Death:   when VMM, wyvern-fs or agent die, or the guest does not obey (Patience), the sandbox is
//          dead: every Wait returns 137, every other call UNAVAILABLE (State-like questions are
//          answered from memory), resources are released by Shutdown.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "hypervisor/published_port.h"
#include "observe/event_log.h"
#include "observe/observation.h"

namespace wyvern::runtime {

struct Config;  // config/config.h: the effective configuration (built-in < yaml < options <
                // annotations)

// containerd's mount: types bind, overlay, ext4, …; applied in order on <bundle>/rootfs.
struct Mount {
  std::string type;
  std::string source;
  std::string target;  // below rootfs; usually empty
  std::vector<std::string> options;
};

// How long a guest may take to do what is no request: then it counts as hung or hostile, and the sandbox dies as a whole. Wide enough
// for a machine that is emulated (50 times slower than hardware) and for a disk that takes long to write what an exit must wait for;
// short of the two minutes that CRI gives a SIGKILL.
struct Patience {
  // To answer a SIGKILL of an init: the agent writes one file, which takes it milliseconds.
  std::chrono::milliseconds kill_answer{20'000};
  // From that answer until it says how the init ended.
  std::chrono::milliseconds kill_exit{60'000};
  // With an agent that refuses to delete a container that has ended; the host's part of it is then released all the same.
  std::chrono::milliseconds delete_refused{2'000};
};

struct SandboxOptions {
  std::string ns =
      "default";  // containerd namespace; with `id` it makes the state directory's hash
  std::string id;
  std::string bundle;  // config.json is read from here
  std::shared_ptr<const Config> config;
  // When our caller was asked for the sandbox: the timeline begins there, with the span "shim". Unset: it begins with Start.
  std::optional<std::chrono::steady_clock::time_point> asked_at = {};
  // Ports of the host that lead to the guest. INVALID_ARGUMENT from Start where the sandbox has a network namespace of its own: who made that
  // publishes them.
  std::vector<PublishedPort> published = {};
  // A stop asked for while Start runs ends the machine: Start undoes everything and says UNAVAILABLE.
  std::stop_token cancel{};
};

struct IoWanted {
  bool terminal = false;
  bool stdin_stream = false;
  bool stdout_stream = false;
  bool stderr_stream = false;  // false with a terminal
  uint32_t rows = 0;
  uint32_t columns = 0;
};

// Host ends of the process's stdio: SOCK_STREAM unix sockets whose other end the VMM pumps to the
// guest. Half-close of stdin is EOF; EOF on stdout/stderr comes when the guest's output has ended.
// Invalid where not wanted. The caller owns them.
struct ProcessIo {
  UniqueFd stdin_stream;
  UniqueFd stdout_stream;
  UniqueFd stderr_stream;
};

struct ContainerOptions {
  std::string id;
  std::string bundle;
  std::vector<Mount>
      rootfs;  // empty: <bundle>/<root.path> (or an absolute root.path) is already there
  IoWanted io;
};

enum class ProcessStatus : uint8_t {
  kCreated = 1,
  kRunning = 2,
  kStopped = 3,
  kPaused = 4
};  // numbers of the task API

struct ExitInfo {
  uint32_t status = 0;  // 0..255, 128 + signal
  std::chrono::system_clock::time_point at;
};

struct ProcessState {
  ProcessStatus status = ProcessStatus::kCreated;
  pid_t pid = 0;  // the anchor's (for execs too)
  bool terminal = false;
  std::optional<ExitInfo> exit;
};

struct DeviceIo {  // a line of io.stat
  uint64_t major = 0, minor = 0;
  uint64_t rbytes = 0, wbytes = 0, rios = 0, wios = 0;
};

struct ContainerStats {  // cgroup v2, guest figures joined with the anchor's cgroup
  uint64_t cpu_usage_usec = 0, cpu_user_usec = 0, cpu_system_usec = 0;
  uint64_t nr_periods = 0, nr_throttled = 0, throttled_usec = 0;
  uint64_t memory_current = 0, memory_limit = 0, swap_current = 0, swap_limit = 0;
  std::map<std::string, uint64_t> memory_stat, memory_events;
  uint64_t pids_current = 0, pids_limit = 0;
  std::vector<DeviceIo> io;  // devices as the guest numbers them
};

struct ConsoleTail {
  std::string text;      // at most 64 KiB
  uint64_t dropped = 0;  // bytes that came before
};

struct TimelinePoint {  // host CLOCK_MONOTONIC, ns since `asked_at`, or since Sandbox::Start began
  std::string
      name;  // "vmm-exec", "vmm-ready", "kernel", "agent", "container-create", "crun-start", …
  int64_t start_ns = 0;
  int64_t end_ns = 0;
};

// What a sandbox is to have. What is not given stays as it is.
struct SizeWish {
  std::optional<uint32_t> vcpus = {};
  std::optional<uint64_t> memory = {};  // bytes; rounded up to 2 MiB
};

struct SandboxVcpu {
  uint32_t vcpu = 0;
  pid_t thread = 0;  // of the VMM, on the host: for pinning
};

struct SandboxSize {
  std::vector<SandboxVcpu> vcpus;  // that run, by number
  uint32_t max_vcpus = 0;
  uint64_t memory = 0;  // bytes, as the rest
  uint64_t boot_memory = 0, max_memory = 0;
};

struct VolumeUsage {
  uint64_t bytes = 0, bytes_available = 0, bytes_used = 0;
  uint64_t inodes = 0, inodes_available = 0, inodes_used = 0;
};

class Sandbox {
 public:
  static Result<std::unique_ptr<Sandbox>> Start(SandboxOptions options);
  virtual ~Sandbox() = default;  // kills what still runs; prefer Shutdown

  // Mounts the rootfs list on <bundle>/rootfs, attaches it and the bind mounts to the share, starts
  // the anchor, creates the init process. Undoes everything on error. A missing binary fails here.
  virtual Result<ProcessIo> CreateContainer(const ContainerOptions& options) = 0;
  // `process_json`: OCI Process. `id` empty, here and below: in the guest itself, outside of every
  // container, where only args, env, cwd and the numbers of user count; FAILED_PRECONDITION without
  // guest.debug_exec.
  virtual Result<ProcessIo> AddExec(const std::string& id, const std::string& exec_id,
                                    const std::string& process_json, const IoWanted& io) = 0;
  // exec_id empty: the container's init, here and below.
  virtual Result<> StartProcess(const std::string& id, const std::string& exec_id) = 0;
  virtual Result<ExitInfo> Wait(const std::string& id, const std::string& exec_id) = 0;
  // SIGKILL of an init that the guest does not obey within Patience is the death of the sandbox.
  virtual Result<> Signal(const std::string& id, const std::string& exec_id, int signal,
                          bool all) = 0;
  virtual Result<> ResizeTerminal(const std::string& id, const std::string& exec_id, uint32_t rows,
                                  uint32_t columns) = 0;
  virtual Result<> CloseStdin(const std::string& id, const std::string& exec_id) = 0;
  // FAILED_PRECONDITION while it runs. For the init: unmounts, detaches, removes the anchor: the
  // container is gone when it returns.
  virtual Result<ExitInfo> DeleteProcess(const std::string& id, const std::string& exec_id) = 0;
  virtual Result<ProcessState> State(
      const std::string& id, const std::string& exec_id) = 0;  // from memory, never blocks long
  virtual Result<> PauseContainer(const std::string& id) = 0;
  virtual Result<> ResumeContainer(const std::string& id) = 0;
  // `resources_json`: OCI LinuxResources; what it does not give stays. INVALID_ARGUMENT names the field. The sandbox grows first, if the limits of
  // its containers together ask for it (sandbox/sizing.h), and shrinks afterwards, behind the caller's back and as far as the guest lets it.
  // After an error everything is as it was: UNAVAILABLE or DEADLINE_EXCEEDED from a guest that does not grow.
  virtual Result<> UpdateContainer(const std::string& id, const std::string& resources_json) = 0;
  // From now on this takes the place of sandbox.vcpus and sandbox.memory; containers that come later may still make it more. When it returns the
  // guest has followed, or everything is as it was and the error says why. INVALID_ARGUMENT: nothing, less than it boots with, or more
  // than it can have. FAILED_PRECONDITION: less than the limits of its containers.
  virtual Result<SandboxSize> Resize(const SizeWish& wish) = 0;
  // Of now; waits for no guest.
  virtual Result<SandboxSize> Size() = 0;
  // Of the direct volume at `path` (volume/direct_volumes.h), by the guest's word. `grow_to`: its device has grown to at least so many bytes, and
  // so do disk and file system first. NOT_FOUND: no container has it. FAILED_PRECONDITION: the device is smaller, or the file system cannot.
  virtual Result<VolumeUsage> DirectVolume(const std::string& path, uint64_t grow_to) = 0;
  virtual Result<std::vector<std::pair<pid_t, std::string>>> Pids(
      const std::string& id) = 0;  // (host pid, exec id); never empty
  virtual Result<ContainerStats> Stats(const std::string& id) = 0;
  virtual std::vector<std::string> ContainerIds() = 0;
  virtual size_t ContainerCount() = 0;
  virtual std::string KernelRelease() = 0;
  virtual ConsoleTail ConsoleLog() = 0;
  virtual std::vector<TimelinePoint> Timeline() = 0;
  virtual std::string EffectiveConfig() = 0;  // yaml, each value with its origin
  // Within three seconds, whatever VMM and guest do; the rest of the host's figures take milliseconds.
  virtual observe::Observation Observe() = 0;
  // What has happened to it, from the end of Start on. Lives as long as this.
  virtual observe::EventLog& Events() = 0;
  // Called once, when the sandbox died without Shutdown.
  virtual void OnDeath(std::function<void(std::string reason)> callback) = 0;
  virtual void OnOom(std::function<void(std::string container_id)> callback) = 0;
  // Ends the VM, its processes, mounts, cgroups, state directory. Idempotent. Bounded (a few
  // seconds).
  virtual Result<> Shutdown() = 0;

 protected:
  Sandbox() = default;
};

// `delete` by a process that never saw the sandbox: reads state.json, kills by pid + start time,
// unmounts, removes cgroups and the directory. With a container id other than the sandbox's own
// only that container's leftovers. Idempotent; works with any of the parts missing.
Result<> CleanUp(const std::string& ns, const std::string& id, const std::string& bundle);

}  // namespace wyvern::runtime
