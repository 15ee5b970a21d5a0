// `wyvern ps`, `logs`, `timeline`, `config`, `version`: what a living sandbox or the configuration says.
#include <fmt/format.h>

#include <cstdio>
#include <vector>

#include "cli/commands.h"
#include "cli/control_client.h"
#include "cli/ps.h"
#include "cli/timeline.h"
#include "cli/version.h"
#include "config/config.h"

namespace wyvern::cli {

namespace {

Result<std::string> StateDirectory() {
  WV_TRY(const auto config, runtime::LoadConfig({}));
  return config->state_dir;
}

template <typename Answer>
Result<Answer> Ask(const SandboxRef& ref, const char* method) {
  WV_TRY(const std::string directory, StateDirectory());
  WV_TRY(const LivingSandbox sandbox, FindSandbox(directory, ref));
  return sandbox.client->Call<control::v1::Empty, Answer>(kControlService, method, {},
                                                          {.timeout = kQueryTimeout});
}

}  // namespace

Result<int> Ps(bool json) {
  WV_TRY(const std::string directory, StateDirectory());
  WV_TRY(const auto sandboxes, ListSandboxes(directory));
  std::vector<control::v1::HelloResponse> hellos;
  hellos.reserve(sandboxes.size());
  for (const LivingSandbox& sandbox : sandboxes) {
    hellos.push_back(sandbox.hello);
  }
  fmt::print("{}", json ? PsJson(hellos) : PsTable(hellos));
  return 0;
}

Result<int> Logs(const SandboxRef& sandbox) {
  WV_TRY(const auto log, Ask<control::v1::ConsoleLogResponse>(sandbox, "ConsoleLog"));
  if (log.dropped() > 0) {
    fmt::print(stderr, "({} earlier bytes are gone)\n", log.dropped());
  }
  fwrite(log.text().data(), 1, log.text().size(), stdout);
  return 0;
}

Result<int> Timeline(const SandboxRef& sandbox) {
  WV_TRY(const auto timeline, Ask<control::v1::TimelineResponse>(sandbox, "Timeline"));
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
  if (options.sandbox.id.empty()) {
    runtime::ConfigSources sources;
    sources.options_path = options.file;
    WV_TRY(const auto config, runtime::LoadConfig(sources));
    fmt::print("{}", runtime::EffectiveYaml(*config));
    return 0;
  }
  WV_TRY(const auto config,
         Ask<control::v1::EffectiveConfigResponse>(options.sandbox, "EffectiveConfig"));
  fmt::print("{}", config.yaml());
  return 0;
}

Result<int> Version() {
  fmt::print("wyvern {}\n", kVersion);
  return 0;
}

}  // namespace wyvern::cli
