// task/process.h — what the shim remembers of a container and its processes. Every question about state is answered from here, at once.
// States:  created → (starting) → running → stopped → deleted; an exec that could not be started goes from created to stopped without events.
// Threads: all fields are guarded by TaskService's mutex, except the constant ones and `stdio`, which is set once and safe by itself.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "proto/containerd_task.pb.h"
#include "sandbox/sandbox.h"
#include "stdio/process_stdio.h"
#include "ttrpc/call.h"

namespace wyvern::shim {

namespace task_pb = containerd::task::v2;

using WaitResponder = ttrpc::Responder<task_pb::WaitResponse>;

struct Process {
  const std::string exec_id;  // empty: the container's init
  const StdioSpec spec;

  runtime::ProcessStatus status =
      runtime::ProcessStatus::kCreated;  // never kPaused: that is the container's
  bool starting = false;  // StartProcess is under way: its exit waits for the start event
  bool deleting = false;
  bool stdin_closed = false;  // CloseIO came before the streams exist
  pid_t pid = 0;
  uint32_t rows = 0;  // a size that came before Start
  uint32_t columns = 0;
  std::optional<runtime::ExitInfo> exit;
  runtime::ProcessIo pending_io;  // of an exec that was added and not started yet
  std::shared_ptr<ProcessStdio> stdio;
  std::vector<WaitResponder> waiters;

  Process(std::string id, StdioSpec stdio_spec)
      : exec_id(std::move(id)), spec(std::move(stdio_spec)) {}

  bool is_init() const { return exec_id.empty(); }

  // An exit that is still to come.
  bool active() const { return starting || status == runtime::ProcessStatus::kRunning; }
};

struct Container {
  const std::string id;
  const std::string bundle;
  const std::chrono::system_clock::time_point created_at = std::chrono::system_clock::now();

  bool paused = false;
  bool init_gone = false;  // its init has died: no exec starts any more
  std::optional<runtime::ContainerStats> last_stats;
  bool figures_kept = false;  // last_stats are those after its end, or there are none
  std::shared_ptr<Process> init;
  std::map<std::string, std::shared_ptr<Process>> execs;

  Container(std::string container_id, std::string container_bundle)
      : id(std::move(container_id)), bundle(std::move(container_bundle)) {}

  // Null when unknown.
  std::shared_ptr<Process> Find(const std::string& exec_id) const {
    if (exec_id.empty()) {
      return init;
    }
    const auto found = execs.find(exec_id);
    return found == execs.end() ? nullptr : found->second;
  }
};

pb::Timestamp ToTimestamp(std::chrono::system_clock::time_point at);

}  // namespace wyvern::shim
