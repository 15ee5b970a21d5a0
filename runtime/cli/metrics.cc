// `wyvern metrics`: Prometheus' text of one sandbox, or of all of the node, once or on a unix socket.
#include <fmt/format.h>
#include <poll.h>

#include <csignal>
#include <cstdio>

#include "base/event_fd.h"
#include "base/log.h"
#include "cli/commands.h"
#include "cli/measure.h"
#include "config/config.h"
#include "observe/text_server.h"

namespace wyvern::cli {

namespace {

Result<std::string> StateDir() {
  WV_TRY(const auto config, runtime::LoadConfig({}));
  return config->state_dir;
}

// Until somebody ends it.
Result<int> ServeNode(const std::string& socket, const std::string& state_dir) {
  signal(SIGPIPE, SIG_IGN);
  WV_TRY(const SignalFd signals, SignalFd::Create({SIGINT, SIGTERM, SIGHUP}));
  WV_TRY(const auto server, observe::TextServer::Start(socket, [state_dir] {
           const auto families = MeasureNode(state_dir);
           if (!families) {
             WV_WARN_LIMITED("metrics: {}", families.error().message());
           }
           return families ? families->Text() : std::string();
         }));
  pollfd wait = {signals.fd().get(), POLLIN, 0};
  while (poll(&wait, 1, -1) <= 0) {
  }
  server->Close();
  return 0;
}

}  // namespace

Result<int> Metrics(const MetricsOptions& options) {
  WV_TRY(const std::string state_dir, StateDir());
  if (!options.listen.empty()) {
    return ServeNode(options.listen, state_dir);
  }
  if (options.node) {
    WV_TRY(const observe::FamilySet families, MeasureNode(state_dir));
    fmt::print("{}", families.Text());
    return 0;
  }
  std::vector<LivingSandbox> one(1);
  WV_TRY(one[0], FindSandbox(state_dir, options.sandbox));
  const std::vector<Measured> measured = MeasureAll(one);
  if (!measured[0].families) {
    return Fail(
        Code::kUnavailable,
        fmt::format("sandbox {} did not tell its figures: {}; if it lives (`wyvern ps`), its "
                    "owner hangs or is of another version",
                    measured[0].id, measured[0].why));
  }
  fmt::print("{}", measured[0].families->Text());
  return 0;
}

}  // namespace wyvern::cli
