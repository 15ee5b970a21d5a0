#include "bootstrap/delete.h"

#include <signal.h>
#include <unistd.h>

#include <charconv>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <thread>

#include "base/event_fd.h"
#include "base/fd.h"
#include "base/log.h"
#include "bootstrap/bundle.h"
#include "bootstrap/socket.h"
#include "proto/containerd_task.pb.h"

namespace wyvern::shim {

namespace {

constexpr std::chrono::milliseconds kPatience{4500};  // containerd waits 5 s
constexpr uint32_t kKilled = 137;                     // 128 + SIGKILL

// The socket as `start` wrote it down, else as it would be named now.
std::string FindSocket(const Args& args, const DeleteEnvironment& environment,
                       const std::string& group) {
  constexpr std::string_view kScheme = "unix://";
  if (const auto address = ReadFile(environment.bundle + "/address", 4096);
      address && address->starts_with(kScheme)) {
    return address->substr(kScheme.size());
  }
  return SocketPath(environment.socket_dir, args.address, args.ns, group.empty() ? args.id : group);
}

// The init's pid as Create wrote it down; 0: it never came so far.
uint32_t ReadPid(const std::string& bundle) {
  uint32_t pid = 0;
  if (const auto text = ReadFile(bundle + "/init.pid", 16)) {
    std::from_chars(text->data(), text->data() + text->size(), pid);
  }
  return pid;
}

// A server that still lives has lost its sandbox or its containerd: told to end, it publishes what it has to and goes.
void EndServer(const std::string& socket) {
  if (const pid_t pid = ListenerPid(socket); pid > 0 && pid != getpid()) {
    if (const auto process = PidFd::OpenPid(pid); process && IsConnectable(socket)) {
      (void)process->Kill(SIGTERM);
    }
  } else if (pid == 0) {
    unlink(socket.c_str());
  }
}

// What CleanUp does may hang on a dead mount; a process that is about to exit leaves the thread behind.
class BoundedRun {
 public:
  explicit BoundedRun(std::function<Result<>()> work)
      : state_(std::make_shared<State>()), thread_([state = state_, work = std::move(work)] {
          auto result = work();
          const std::lock_guard lock(state->mu);
          state->result = std::move(result);
          state->done.notify_all();
        }) {}

  ~BoundedRun() {
    if (finished_) {
      thread_.join();
    } else {
      thread_.detach();  // the process ends now: see above
    }
  }

  BoundedRun(const BoundedRun&) = delete;
  BoundedRun& operator=(const BoundedRun&) = delete;

  Result<> Wait(std::chrono::milliseconds patience) {
    std::unique_lock lock(state_->mu);
    state_->done.wait_for(lock, patience, [this] { return state_->result.has_value(); });
    std::optional<Result<>> result = std::move(state_->result);
    if (!result.has_value()) {
      return Fail(Code::kDeadlineExceeded, "clean-up did not finish in time; call delete again");
    }
    finished_ = true;
    return *std::move(result);
  }

 private:
  struct State {
    std::mutex mu;
    std::condition_variable done;
    std::optional<Result<>> result;
  };

  std::shared_ptr<State> state_;
  bool finished_ = false;
  std::thread thread_;
};

}  // namespace

Result<std::string> RunDelete(const Args& args, const DeleteEnvironment& environment) {
  // Without a readable config.json the container counts as standing alone.
  const std::string group = GroupOf(environment.bundle).value_or(std::string());
  const bool own_sandbox = group.empty() || group == args.id;
  const std::string socket = FindSocket(args, environment, group);

  BoundedRun run([ns = args.ns, id = args.id, bundle = environment.bundle,
                  clean_up = environment.clean_up] { return clean_up(ns, id, bundle); });
  Result<> cleaned = run.Wait(kPatience);
  if (own_sandbox) {
    EndServer(socket);
  }
  if (!cleaned) {
    return tl::unexpected(std::move(cleaned).error());
  }
  containerd::task::v2::DeleteResponse response;
  response.set_pid(ReadPid(environment.bundle));
  response.set_exit_status(kKilled);
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(now);
  response.mutable_exited_at()->set_seconds(seconds.count());
  response.mutable_exited_at()->set_nanos(
      static_cast<int32_t>(std::chrono::nanoseconds(now - seconds).count()));
  return response.SerializeAsString();
}

}  // namespace wyvern::shim
