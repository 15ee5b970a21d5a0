// `wyvern events`: what happens to living sandboxes, as it happens.
#include <fmt/format.h>

#include <cstdio>

#include "base/event_fd.h"
#include "cli/commands.h"
#include "cli/event_stream.h"
#include "config/config.h"

namespace wyvern::cli {

Result<int> Events(const EventsOptions& options) {
  WV_TRY(const auto config, runtime::LoadConfig({}));
  // Nobody ends it but a signal, or who closes the other end of our output (SIGPIPE).
  WV_TRY(const EventFd never, EventFd::Create());
  FollowOptions follow;
  follow.only_new = options.only_new;
  follow.print = [&options](const NamedEvent& event) {
    fmt::print("{}", options.json ? EventJson(event) : EventLine(event));
    (void)fflush(stdout);  // a line is news: it does not wait for the next
  };
  if (options.sandbox.id.empty()) {
    WV_TRY_VOID(FollowAll(config->state_dir, options.sandbox.ns, follow, never));
    return 0;
  }
  WV_TRY(LivingSandbox sandbox, FindSandbox(config->state_dir, options.sandbox));
  WV_TRY_VOID(FollowSandbox(std::move(sandbox), follow, never));
  return 0;
}

}  // namespace wyvern::cli
