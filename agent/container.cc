#include "agent/container.h"

#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <system_error>
#include <utility>

#include "agent/idle_cache.h"
#include "agent/pod.h"
#include "base/log.h"

namespace wyvern::agent {
namespace {

constexpr std::chrono::milliseconds kFreezePoll(5);
constexpr int kFreezePolls = 2000;

// Between the end of `crun start` and that of crun's code in the process there are a few system calls and the hooks startContainer.
constexpr std::chrono::milliseconds kFirstLook(1);
constexpr std::chrono::milliseconds kSlowestLook(16);
constexpr std::chrono::seconds kExecLimit(10);

// What a shell says of a program that could not be run.
uint32_t StatusOfFailedExec(const std::string& text) {
  if (text.find("not found") != std::string::npos ||
      text.find("No such file") != std::string::npos) {
    return 127;
  }
  if (text.find("ermission denied") != std::string::npos) {
    return 126;
  }
  return 255;
}

// crun sets the size right after it has forked the process, which is earlier than we can; a program that looks at once may still
// see none and gets SIGWINCH then. The host's JSON carries no size.
std::string WithConsoleSize(const std::string& process_json, const v1::Stdio& stdio) {
  const size_t brace = process_json.find('{');
  if (!stdio.terminal() || stdio.rows() == 0 || stdio.columns() == 0 ||
      brace == std::string::npos || process_json.find("\"consoleSize\"") != std::string::npos) {
    return process_json;
  }
  return "{" +
         fmt::format("\"consoleSize\":{{\"height\":{},\"width\":{}}},", stdio.rows(),
                     stdio.columns()) +
         process_json.substr(brace + 1);
}

// What its program is: crun's own file until it runs the container's. The same after its end, or when it cannot be told.
ProgramId ProgramOf(pid_t pid) {
  struct stat status {};

  return stat(fmt::format("/proc/{}/exe", pid).c_str(), &status) == 0
             ? ProgramId{status.st_dev, status.st_ino}
             : ProgramId{};
}

// By the last of its numbers: that in its own namespace.
bool IsFirstOfPidNamespace(pid_t pid) {
  const std::string status = ReadFile("/proc/" + std::to_string(pid) + "/status").value_or("");
  const size_t line = status.find("\nNSpid:");
  if (line == std::string::npos) {
    return false;
  }
  const std::string_view numbers =
      std::string_view(status).substr(line + 1, status.find('\n', line + 1) - line - 1);
  return numbers.substr(numbers.find_last_of(" \t") + 1) == "1";
}

}  // namespace

Container::Container(Environment& environment, std::string id)
    : ProcessTable("container " + id),
      environment_(environment),
      id_(std::move(id)),
      bundle_(environment.containers_dir + "/" + id_),
      init_(std::make_shared<Process>()) {
  init_->state = State::kCreating;
}

Container::~Container() {
  environment_.oom.Remove(id_);
  environment_.idle_cache.Remove(id_);
}

Result<std::shared_ptr<Container::Process>> Container::Find(const std::string& exec_id) const {
  if (exec_id.empty()) {
    if (init_->state == State::kCreating) {
      return Fail(Code::kFailedPrecondition, "container " + id_ + " is being created");
    }
    return init_;
  }
  return ProcessTable::Find(exec_id);
}

Result<> Container::WriteBundle(const v1::CreateContainerRequest& request) {
  // A fresh directory or none: nothing in it can lead elsewhere.
  if (mkdir(bundle_.c_str(), 0700) != 0) {
    return SysError("mkdir " + bundle_);
  }
  return WriteFile(bundle_ + "/config.json", request.config_json());
}

void Container::Create(const v1::CreateContainerRequest& request, PidDone done) {
  auto prepared = WriteBundle(request).and_then([&]() -> Result<> {
    WV_TRY(init_->io, ProcessIo::Create(environment_.loop, environment_.stdio, request.stdio(),
                                        environment_.scratch_dir));
    return {};
  });
  if (!prepared) {
    RemoveFiles();
    done(tl::unexpected(std::move(prepared).error()));
    return;
  }
  environment_.crun.Create(
      id_, bundle_, init_->io->console_socket(), init_->io->ChildFds(),
      [self = shared_from_this(), done = std::move(done)](Result<Spawned> spawned) {
        auto created = spawned ? self->Created(*spawned)
                               : Result<pid_t>(tl::unexpected(std::move(spawned).error()));
        if (created) {
          done(*created);
          return;
        }
        self->init_->io.reset();
        auto error = std::make_shared<Error>(std::move(created).error());
        // crun removes what it made when it fails; this is for what failed after it, and costs little.
        self->environment_.crun.Delete(self->id_, [self, error, done](Result<>) {
          self->RemoveFiles();
          done(tl::unexpected(std::move(*error)));
        });
      });
}

Result<pid_t> Container::Created(const Spawned& spawned) {
  init_->pid = spawned.pid;
  crun_program_ = ProgramOf(spawned.pid);
  own_pid_namespace_ = IsFirstOfPidNamespace(spawned.pid);
  WV_TRY(cgroup_, Cgroup::OfProcess(spawned.pid));
  WV_TRY_VOID(init_->io->ChildStarted());
  environment_.oom.Add(id_, cgroup_);
  environment_.idle_cache.Add(id_, cgroup_.directory());
  environment_.pod.Add(id_, spawned.pid);
  init_->state = State::kCreated;
  environment_.reaper.Watch(
      spawned.pid, [self = shared_from_this()](ExitStatus status) { self->OnInitExit(status); });
  return spawned.pid;
}

void Container::OnInitExit(ExitStatus status) {
  environment_.oom.Check(id_);
  environment_.pod.Remove(id_);
  if (!own_pid_namespace_) {
    // The kernel ends the rest of a pid namespace only with its first process.
    (void)cgroup_.Kill();
  }
  Exited(*init_, static_cast<uint32_t>(status.AsShell()));
}

Result<> Container::AddProcess(const v1::AddProcessRequest& request) {
  WV_TRY(const auto init, Find(""));
  if (init->state == State::kExited || !deletions_.empty()) {
    return Fail(Code::kFailedPrecondition, "container " + id_ + " has stopped");
  }
  WV_TRY_VOID(CheckNew(request.exec_id()));
  auto process = std::make_shared<Process>();
  process->process_file = bundle_ + "/process-" + std::to_string(++file_counter_) + ".json";
  WV_TRY_VOID(
      WriteFile(process->process_file, WithConsoleSize(request.process_json(), request.stdio())));
  auto io = ProcessIo::Create(environment_.loop, environment_.stdio, request.stdio(),
                              environment_.scratch_dir);
  if (!io) {
    (void)unlink(process->process_file.c_str());
    return tl::unexpected(std::move(io).error());
  }
  process->io = *std::move(io);
  execs().emplace(request.exec_id(), std::move(process));
  return {};
}

void Container::StartProcess(const std::string& exec_id, PidDone done) {
  auto found = Find(exec_id);
  if (!found) {
    done(tl::unexpected(std::move(found).error()));
    return;
  }
  const std::shared_ptr<Process> process = *found;
  if (process->state != State::kCreated) {
    done(Fail(Code::kFailedPrecondition, "the process was started already"));
    return;
  }
  if (!exec_id.empty()) {
    StartExec(exec_id, process, std::move(done));
    return;
  }
  process->state = State::kStarting;
  environment_.crun.Start(
      id_, [self = shared_from_this(), process, done = std::move(done)](Result<> started) {
        if (!started) {
          if (process->state == State::kStarting) {
            process->state = State::kCreated;
          }
          done(tl::unexpected(std::move(started).error()));
          return;
        }
        if (process->state == State::kStarting) {
          process->state = State::kRunning;
        }
        self->AwaitProgram(kFirstLook, std::chrono::steady_clock::now() + kExecLimit, done);
      });
}

// crun answers when it has told the process to go on. Who sends a signal as soon as he knows that the container was started means its
// program, not what crun still has to do, where every signal has its default.
void Container::AwaitProgram(std::chrono::milliseconds next,
                             std::chrono::steady_clock::time_point deadline, PidDone done) {
  if (init_->state == State::kExited || ProgramOf(init_->pid) != crun_program_ ||
      std::chrono::steady_clock::now() > deadline) {
    done(init_->pid);
    return;
  }
  environment_.loop.After(next,
                          [self = shared_from_this(), next, deadline, done = std::move(done)] {
                            self->AwaitProgram(std::min(2 * next, kSlowestLook), deadline, done);
                          });
}

void Container::StartExec(const std::string& exec_id, const std::shared_ptr<Process>& process,
                          PidDone done) {
  if (init_->state == State::kExited) {
    done(Fail(Code::kFailedPrecondition, "container " + id_ + " has stopped"));
    return;
  }
  process->state = State::kStarting;
  environment_.crun.Exec(
      id_, process->process_file, process->io->console_socket(), process->io->ChildFds(),
      [self = shared_from_this(), exec_id, process,
       done = std::move(done)](Result<Spawned> spawned) {
        (void)unlink(process->process_file.c_str());
        auto started = spawned ? self->ExecStarted(process, *spawned)
                               : Result<pid_t>(tl::unexpected(std::move(spawned).error()));
        if (!started) {
          process->io.reset();
          Exited(*process, StatusOfFailedExec(started.error().message()));
        }
        done(std::move(started));
      });
}

Result<pid_t> Container::ExecStarted(const std::shared_ptr<Process>& process,
                                     const Spawned& spawned) {
  process->pid = spawned.pid;
  process->state = State::kRunning;
  environment_.reaper.Watch(spawned.pid, [self = shared_from_this(), process](ExitStatus status) {
    self->environment_.oom.Check(self->id_);
    Exited(*process, static_cast<uint32_t>(status.AsShell()));
  });
  // Deleted while crun ran.
  if (!process->io) {
    (void)kill(spawned.pid, SIGKILL);
    return Fail(Code::kFailedPrecondition, "container " + id_ + " has stopped");
  }
  if (auto console = process->io->ChildStarted(); !console) {
    (void)kill(spawned.pid, SIGKILL);
    return tl::unexpected(std::move(console).error());
  }
  return spawned.pid;
}

Result<> Container::Signal(const std::string& exec_id, uint32_t signal, bool all) {
  WV_TRY(const auto process, FindToSignal(exec_id, signal));
  if (!all) {
    // We are its parent and have not waited for it: the number is still its own.
    return kill(process->pid, static_cast<int>(signal)) == 0 ? Result<>()
                                                             : SysError("kill the process");
  }
  if (signal == SIGKILL) {
    return cgroup_.Kill();
  }
  WV_TRY(const std::vector<pid_t> pids, cgroup_.Processes());
  for (const pid_t pid : pids) {
    (void)kill(pid, static_cast<int>(signal));
  }
  return {};
}

void Container::Delete(ExitDone done) {
  if (init_->state != State::kExited) {
    done(Fail(Code::kFailedPrecondition, "container " + id_ + " is running"));
    return;
  }
  deletions_.push_back(std::move(done));
  if (deletions_.size() > 1) {
    return;
  }
  (void)cgroup_.Kill();
  init_->io.reset();
  for (const auto& [exec_id, process] : execs()) {
    process->io.reset();
  }
  environment_.oom.Remove(id_);
  environment_.idle_cache.Remove(id_);
  environment_.crun.Delete(id_, [self = shared_from_this()](Result<> deleted) {
    const auto waiting = std::exchange(self->deletions_, {});
    if (deleted) {
      self->RemoveFiles();
    }
    for (const ExitDone& each : waiting) {
      if (deleted) {
        each(self->init_->exit);
      } else {
        each(Fail(deleted.error().code(), deleted.error().message()));
      }
    }
  });
}

void Container::RemoveFiles() {
  std::error_code error;
  std::filesystem::remove_all(bundle_, error);
  if (error) {
    WV_WARN("container {}: removing {}: {}", id_, bundle_, error.message());
  }
}

void Container::Freeze(bool freeze, Done done) {
  if (init_->state != State::kRunning) {
    done(Fail(Code::kFailedPrecondition, "container " + id_ + " is not running"));
    return;
  }
  if (auto requested = cgroup_.RequestFreeze(freeze); !requested) {
    done(std::move(requested));
    return;
  }
  PollFrozen(freeze, kFreezePolls, std::move(done));
}

void Container::PollFrozen(bool freeze, int polls_left, Done done) {
  auto frozen = cgroup_.IsFrozen();
  if (!frozen) {
    done(tl::unexpected(std::move(frozen).error()));
  } else if (*frozen == freeze) {
    done({});
  } else if (polls_left == 0) {
    done(Fail(Code::kDeadlineExceeded, "container " + id_ + ": its processes do not freeze"));
  } else {
    environment_.loop.After(
        kFreezePoll, [self = shared_from_this(), freeze, polls_left, done = std::move(done)] {
          self->PollFrozen(freeze, polls_left - 1, done);
        });
  }
}

void Container::Update(const std::string& resources_json, Done done) {
  if (init_->state == State::kCreating || init_->state == State::kExited) {
    done(Fail(Code::kFailedPrecondition, "container " + id_ + " is not running"));
    return;
  }
  const std::string file = bundle_ + "/resources-" + std::to_string(++file_counter_) + ".json";
  if (auto written = WriteFile(file, resources_json); !written) {
    done(std::move(written));
    return;
  }
  environment_.crun.Update(id_, file, [file, done = std::move(done)](Result<> updated) {
    (void)unlink(file.c_str());
    done(std::move(updated));
  });
}

Result<v1::ListProcessesResponse> Container::List() const {
  WV_TRY(const auto init, Find(""));
  v1::ListProcessesResponse response;
  if (init->state == State::kExited) {
    return response;
  }
  WV_TRY(const std::vector<pid_t> pids, cgroup_.Processes());
  for (const pid_t pid : pids) {
    auto* process = response.add_processes();
    process->set_guest_pid(static_cast<uint32_t>(pid));
    for (const auto& [exec_id, exec] : execs()) {
      if (exec->pid == pid && exec->state == State::kRunning) {
        process->set_exec_id(exec_id);
      }
    }
  }
  return response;
}

Result<v1::ContainerStatsResponse> Container::Stats() const {
  WV_TRY([[maybe_unused]] const auto init, Find(""));
  return cgroup_.Stats();
}

void Container::KillAll() {
  if (cgroup_.valid()) {
    (void)cgroup_.Kill();
  }
}

}  // namespace wyvern::agent
