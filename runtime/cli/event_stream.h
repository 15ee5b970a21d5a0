// cli/event_stream.h — the events of living sandboxes, followed: of one, or of all that are there and of all that come.
// Shape:   each sandbox has a thread that reads its stream. When that ends, one event of ours tells how: "ended", or "died" when the process that
//          served the sandbox was killed and could not tell.
// Threads: `print` is called by one thread at a time.
#pragma once

#include <functional>
#include <string>

#include "base/event_fd.h"
#include "cli/control_client.h"
#include "observe/event_log.h"

namespace wyvern::cli {

struct NamedEvent {
  std::string ns, sandbox;
  std::string name;  // observe::EventName's, or "ended"
  observe::Event event;
};

// "2026-11-23T13:50:00.123Z default/web oom CONTAINER the guest killed …"
std::string EventLine(const NamedEvent& event);
// One JSON object and a newline.
std::string EventJson(const NamedEvent& event);

struct FollowOptions {
  bool only_new = false;  // without what happened before we came
  std::function<void(const NamedEvent&)> print;
};

// Until the sandbox is gone, or `stop` is readable.
Result<> FollowSandbox(LivingSandbox sandbox, const FollowOptions& options, const EventFd& stop);

// Until `stop` is readable. Those of the namespace `ns`, or of all where it is empty. A sandbox that starts later is followed from its first event on.
Result<> FollowAll(const std::string& state_dir, const std::string& ns,
                   const FollowOptions& options, const EventFd& stop);

}  // namespace wyvern::cli
