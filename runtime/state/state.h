// state/state.h — what a sandbox has made on the host, on disk before it is made, so that a fresh process can undo it.
// Wire:    <state_dir>/<hash>/state.json, {"version": 1, …}; written to a temporary file, fsync, rename. hash: 32 hex digits of namespace and id.
// Versions: a sandbox outlives upgrades of Wyvern, so who undoes it may be of another version than who wrote the file. Names keep their meaning and new
//          ones may be missing: within one number every version undoes what any other has made, as far as it knows of it. The number goes up only
//          where an older reader would undo the wrong thing; testing/written/ has what versions have written.
// Errors:  a damaged or foreign file is DATA_LOSS; one of a later format FAILED_PRECONDITION; a missing one NOT_FOUND.
// Threads: Store serialises itself.   Trust: the directory is root's, mode 0700; the file is still parsed as untrusted input.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace wyvern::runtime {

// A process that a later one with the same number cannot be mistaken for. Start time: field 22 of /proc/<pid>/stat, in clock ticks.
struct ProcessRecord {
  std::string role;  // "vmm", "fs", "passt", "anchor"
  pid_t pid = 0;
  uint64_t start_time = 0;
};

// A device that the VMM of the sandbox holds: its end frees it.
struct DiskRecord {
  std::string id;
  std::string source;  // what it is on the host
};

struct ContainerRecord {
  std::string bundle;
  uint32_t index = 0;               // its exports are c<index>-…
  std::vector<std::string> mounts;  // mount points in the order they were made
  std::vector<std::string> exports;
  std::vector<DiskRecord> disks;
  std::string cgroup;  // absolute path; empty: none
  std::vector<ProcessRecord> processes;
  bool hooked = false;  // its create hooks have begun: the poststop hooks are due when it goes
};

// A namespace that is there after the sandbox: what was connected in it is to be disconnected.
struct NetworkRecord {
  std::string path;             // empty: the sandbox's own, which ends with it
  std::vector<int> interfaces;  // indices
};

struct SandboxRecord {
  std::string ns, id, bundle;
  ProcessRecord owner;                   // the process that serves it
  std::vector<ProcessRecord> processes;  // vmm, fs, passt
  std::vector<std::string> cgroups;      // directories in the order they were made
  NetworkRecord network;
  std::map<std::string, ContainerRecord> containers;
};

// The format that is written, and the highest that is read.
inline constexpr int kStateVersion = 1;

// A larger file is damaged.
inline constexpr size_t kMaxStateBytes = 4U << 20U;

Result<SandboxRecord> ParseState(std::string_view text);
std::string FormatState(const SandboxRecord& record);

// Start time of a living process; NOT_FOUND when there is none (a zombie is none).
Result<uint64_t> ProcessStartTime(pid_t pid);
// With role and the start time of now.
Result<ProcessRecord> RecordProcess(std::string role, pid_t pid);
// True when that very process still runs.
bool IsAlive(const ProcessRecord& process);
// SIGKILL through a pidfd if it still is that process, then waits up to two seconds for its end. No process: success.
Result<> KillProcess(const ProcessRecord& process);

std::string StateDirectory(const std::string& state_dir, const std::string& ns,
                           const std::string& id);

// The state file of a living sandbox.
class StateStore {
 public:
  // For tests: called with a step's name after the file was written and before the side effect.
  using StepHook = std::function<void(const std::string& step)>;

  // Makes the directory (0700). ALREADY_EXISTS when a living process owns it; leftovers of a dead one are FAILED_PRECONDITION: CleanUp first, which
  // says why it cannot if they are of a later format.
  static Result<std::unique_ptr<StateStore>> Create(const std::string& state_dir,
                                                    SandboxRecord record, StepHook hook = {});

  // Changes the record and writes it. On failure the record is as before.
  Result<> Update(const std::string& step, const std::function<void(SandboxRecord&)>& change);
  SandboxRecord Snapshot() const;

  const std::string& directory() const { return directory_; }

  // Removes the file and, when nothing else is in it, the directory. Idempotent.
  Result<> Remove();

 private:
  StateStore(std::string directory, SandboxRecord record, StepHook hook)
      : directory_(std::move(directory)), hook_(std::move(hook)), record_(std::move(record)) {}

  const std::string directory_;
  const StepHook hook_;
  mutable std::mutex mu_;
  SandboxRecord record_;  // guarded by mu_
};

Result<SandboxRecord> LoadState(const std::string& directory);
Result<> RemoveStateDirectory(const std::string& directory);

}  // namespace wyvern::runtime
