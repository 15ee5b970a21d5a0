// control/observer.h — the part of the control service that looks and changes nothing: metrics, on the call's socket and on one of their own, and
// events.
// Threads: Measure from any, it blocks as long as Sandbox::Observe does. Watch and EndWatchers on the control server's loop. The metrics' socket has a
//          thread of its own.
#pragma once

#include <sys/types.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "observe/sandbox_families.h"
#include "observe/text_server.h"
#include "proto/control.pb.h"
#include "sandbox/sandbox.h"
#include "ttrpc/server.h"

namespace wyvern::shim {

inline constexpr size_t kMaxWatchers = 64;

class Observer {
 public:
  // `processes`: of the sandbox, beside those that it knows of itself; by role. `sandbox` outlives this.
  Observer(runtime::Sandbox& sandbox, observe::SandboxName name,
           std::map<std::string, pid_t> processes)
      : sandbox_(sandbox), name_(std::move(name)), processes_(std::move(processes)) {}

  // Waits for a Measure of the socket that is under way. Preconditions: EndWatchers(true).
  ~Observer() = default;
  Observer(const Observer&) = delete;
  Observer& operator=(const Observer&) = delete;

  observe::FamilySet Measure();

  // The socket of the metrics. Without one nobody but who looks at figures misses something: a failure is logged.
  void Listen(const std::string& path);
  // Does not wait. Idempotent.
  void CloseSocket();

  // RESOURCE_EXHAUSTED to the stream that is one too many.
  void Watch(const control::v1::WatchEventsRequest& request,
             ttrpc::ServerStream<control::v1::SandboxEvent> stream);
  // Those whose stream has ended, or all.
  void EndWatchers(bool all);

 private:
  struct Watcher {
    uint64_t subscription = 0;
    std::shared_ptr<ttrpc::ServerStream<control::v1::SandboxEvent>> stream;
  };

  runtime::Sandbox& sandbox_;
  const observe::SandboxName name_;
  const std::map<std::string, pid_t> processes_;
  std::vector<Watcher> watchers_;                   // on the loop
  std::unique_ptr<observe::TextServer> metrics_{};  // uses the rest
};

}  // namespace wyvern::shim
