// `wyvern ps`, `logs`, `timeline`, `config`, `version`: what a living sandbox or the configuration says.
#include <fmt/format.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/control_client.h"
#include "cli/timeline.h"
#include "cli/version.h"
#include "config/config.h"

namespace wyvern::cli {

namespace {

constexpr std::chrono::milliseconds kQueryTimeout(5000);

Result<std::string> StateDirectory() {
  WV_TRY(const auto config, runtime::LoadConfig({}));
  return config->state_dir;
}

// One question to the sandbox that `id` names.
template <typename Answer>
Result<Answer> Ask(const std::string& id, const char* method) {
  WV_TRY(const std::string directory, StateDirectory());
  WV_TRY(const FoundContainer found, FindContainer(directory, id));
  return found.sandbox.client->Call<control::v1::Empty, Answer>(kControlService, method, {},
                                                                {.timeout = kQueryTimeout});
}

}  // namespace

Result<int> Ps(bool json) {
  WV_TRY(const std::string directory, StateDirectory());
  WV_TRY(const auto sandboxes, ListSandboxes(directory));
  nlohmann::json list = nlohmann::json::array();
  if (!json) {
    fmt::print("{:<24} {:<24} {:<9} {:>8}  {}\n", "SANDBOX", "CONTAINER", "STATUS", "PID",
               "KERNEL");
  }
  for (const LivingSandbox& sandbox : sandboxes) {
    for (const auto& container : sandbox.hello.containers()) {
      if (json) {
        list.push_back({{"sandbox", sandbox.hello.sandbox_id()},
                        {"container", container.id()},
                        {"status", container.status()},
                        {"pid", container.anchor_pid()},
                        {"bundle", container.bundle()},
                        {"kernel", sandbox.hello.kernel_release()}});
      } else {
        fmt::print("{:<24} {:<24} {:<9} {:>8}  {}\n", sandbox.hello.sandbox_id(), container.id(),
                   container.status(), container.anchor_pid(), sandbox.hello.kernel_release());
      }
    }
  }
  if (json) {
    fmt::print("{}\n", list.dump(1));
  }
  return 0;
}

Result<int> Logs(const SandboxRef& sandbox) {
  WV_TRY(const auto log, Ask<control::v1::ConsoleLogResponse>(sandbox.id, "ConsoleLog"));
  if (log.dropped() > 0) {
    fmt::print(stderr, "({} earlier bytes are gone)\n", log.dropped());
  }
  fwrite(log.text().data(), 1, log.text().size(), stdout);
  return 0;
}

Result<int> Timeline(const SandboxRef& sandbox) {
  WV_TRY(const auto timeline, Ask<control::v1::TimelineResponse>(sandbox.id, "Timeline"));
  std::vector<runtime::TimelinePoint> points;
  for (const auto& point : timeline.points()) {
    points.push_back({point.name(), static_cast<int64_t>(point.start_ns()),
                      static_cast<int64_t>(point.end_ns())});
  }
  fmt::print("{}\n", TimelineJson(points));
  return 0;
}

Result<int> ShowConfig(const ConfigOptions& options) {
  if (!options.effective) {
    fmt::print("{}", runtime::DefaultYaml());
    return 0;
  }
  if (options.id.empty()) {
    runtime::ConfigSources sources;
    sources.options_path = options.file;
    WV_TRY(const auto config, runtime::LoadConfig(sources));
    fmt::print("{}", runtime::EffectiveYaml(*config));
    return 0;
  }
  WV_TRY(const auto config,
         Ask<control::v1::EffectiveConfigResponse>(options.id, "EffectiveConfig"));
  fmt::print("{}", config.yaml());
  return 0;
}

Result<int> Version() {
  fmt::print("wyvern {}\n", kVersion);
  return 0;
}

}  // namespace wyvern::cli
