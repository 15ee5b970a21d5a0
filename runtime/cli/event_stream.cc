#include "cli/event_stream.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <poll.h>

#include <atomic>
#include <cerrno>
#include <ctime>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "base/log.h"
#include "base/worker_thread.h"
#include "control/metrics_wire.h"
#include "state/state.h"

namespace wyvern::cli {

namespace {

namespace pb = control::v1;

using std::chrono::milliseconds;

// How often new sandboxes are looked for, and how soon a reader notices that it is to stop.
constexpr milliseconds kLook(300);

std::string TimeText(std::chrono::system_clock::time_point at) {
  const auto since = at.time_since_epoch();
  const auto seconds = std::chrono::floor<std::chrono::seconds>(since);
  const auto millis = std::chrono::duration_cast<milliseconds>(since - seconds);
  const std::time_t time = seconds.count();
  tm utc{};
  gmtime_r(&time, &utc);
  return fmt::format("{:%Y-%m-%dT%H:%M:%S}.{:03}Z", utc, millis.count());
}

bool IsSignalled(const EventFd& stop, milliseconds wait) {
  pollfd poll_fd = {stop.fd().get(), POLLIN, 0};
  return poll(&poll_fd, 1, static_cast<int>(wait.count())) > 0;
}

// Why a stream ended: its owner says good-bye by ending, or was killed and left its state.
NamedEvent EndOf(const LivingSandbox& sandbox) {
  NamedEvent end{sandbox.hello.ns(), sandbox.hello.sandbox_id(), "ended", {}};
  end.event.at = std::chrono::system_clock::now();
  const auto record = runtime::LoadState(sandbox.directory);
  if (record && !runtime::IsAlive(record->owner)) {
    end.name = observe::EventName(observe::EventKind::kDied);
    end.event.kind = observe::EventKind::kDied;
    end.event.text = fmt::format("process {}, which served it, was killed", record->owner.pid);
  }
  return end;
}

// Threads of sandboxes that are followed.
class Followers {
 public:
  Followers(const std::string& ns, const FollowOptions& options) : ns_(ns), options_(options) {}

  ~Followers() {
    for (const auto& [directory, follower] : all_) {
      follower->thread->RequestStop();
    }
  }

  Followers(const Followers&) = delete;
  Followers& operator=(const Followers&) = delete;

  // Those in `state_dir` that are not followed yet.
  Result<> Look(const std::string& state_dir);

 private:
  struct Follower {
    // One that failed is not: it stays, so that it is not tried, and told of, again and again.
    std::atomic<bool> done{false};
    std::unique_ptr<WorkerThread> thread;  // uses `done`
  };

  Result<> Follow(LivingSandbox sandbox);

  const std::string& ns_;
  const FollowOptions& options_;
  std::mutex print_mu_;
  std::map<std::string, std::unique_ptr<Follower>> all_;  // by directory
  std::set<std::string> others_;                          // directories of other namespaces
  bool first_ = true;
};

Result<> Followers::Look(const std::string& state_dir) {
  std::erase_if(all_, [](const auto& entry) { return entry.second->done.load(); });
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(state_dir, error)) {
    const std::string directory = entry.path().string();
    if (all_.contains(directory) || others_.contains(directory)) {
      continue;
    }
    // Many are no sandbox, or not yet one that answers: they are looked at again.
    if (auto sandbox = ConnectSandbox(directory); sandbox) {
      WV_TRY_VOID(Follow(*std::move(sandbox)));
    }
  }
  if (error && error.value() != ENOENT) {
    return SysErrorFrom(error.value(), "list " + state_dir);
  }
  first_ = false;
  return {};
}

Result<> Followers::Follow(LivingSandbox sandbox) {
  if (!ns_.empty() && sandbox.hello.ns() != ns_) {
    others_.insert(sandbox.directory);  // which is the namespace's, too: it has none of ours later
    return {};
  }
  FollowOptions options;
  // Of one that came after us everything is new.
  options.only_new = options_.only_new && first_;
  options.print = [this](const NamedEvent& event) {
    const std::lock_guard lock(print_mu_);
    options_.print(event);
  };
  auto follower = std::make_unique<Follower>();
  const std::string directory = sandbox.directory;
  WV_TRY(follower->thread,
         WorkerThread::Start("events", [options, done = &follower->done,
                                        held = std::make_shared<LivingSandbox>(std::move(sandbox))](
                                           const EventFd& stop) {
           const std::string name = held->hello.ns() + "/" + held->hello.sandbox_id();
           const auto followed = FollowSandbox(std::move(*held), options, stop);
           if (!followed) {
             WV_WARN("{}: its events cannot be followed: {}", name, followed.error().message());
           }
           done->store(followed.has_value());
         }));
  all_.emplace(directory, std::move(follower));
  return {};
}

}  // namespace

std::string EventLine(const NamedEvent& event) {
  std::string line =
      fmt::format("{} {}/{} {}", TimeText(event.event.at), event.ns, event.sandbox, event.name);
  for (const std::string& word : {event.event.container, event.event.text}) {
    line += word.empty() ? "" : " " + word;
  }
  return line + "\n";
}

std::string EventJson(const NamedEvent& event) {
  nlohmann::json object = {{"time", TimeText(event.event.at)},
                           {"namespace", event.ns},
                           {"sandbox", event.sandbox},
                           {"event", event.name},
                           {"container", nullptr},
                           {"text", event.event.text}};
  if (!event.event.container.empty()) {
    object["container"] = event.event.container;
  }
  return object.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

Result<> FollowSandbox(LivingSandbox sandbox, const FollowOptions& options, const EventFd& stop) {
  pb::WatchEventsRequest request;
  request.set_only_new(options.only_new);
  auto stream = sandbox.client->OpenStream<pb::WatchEventsRequest, pb::SandboxEvent>(
      kControlService, "WatchEvents", request);
  if (!stream && stream.error().code() == Code::kUnavailable) {
    options.print(EndOf(sandbox));
    return {};
  }
  if (!stream) {
    return tl::unexpected(std::move(stream).error());
  }
  while (!IsSignalled(stop, milliseconds(0))) {
    auto read = stream->Read(kLook);
    if (!read && read.error().code() == Code::kDeadlineExceeded) {
      continue;
    }
    if (!read && read.error().code() != Code::kUnavailable) {
      return tl::unexpected(std::move(read).error());
    }
    if (!read || !read->has_value()) {
      options.print(EndOf(sandbox));
      return {};
    }
    NamedEvent event{sandbox.hello.ns(), sandbox.hello.sandbox_id(), "", shim::FromMessage(**read)};
    event.name = observe::EventName(event.event.kind);
    options.print(event);
  }
  return {};
}

Result<> FollowAll(const std::string& state_dir, const std::string& ns,
                   const FollowOptions& options, const EventFd& stop) {
  Followers followers(ns, options);
  do {
    WV_TRY_VOID(followers.Look(state_dir));
  } while (!IsSignalled(stop, kLook));
  return {};
}

}  // namespace wyvern::cli
