// containerd-shim-wyvern-v2: the shim over the real runtime.
#include <memory>
#include <utility>

#include "bootstrap/bundle.h"
#include "bootstrap/start.h"
#include "config/config.h"
#include "sandbox/sandbox.h"
#include "server/serve.h"
#include "state/state.h"

namespace {

using wyvern::Result;

Result<std::unique_ptr<wyvern::runtime::Sandbox>> StartSandbox(
    const wyvern::shim::SandboxRequest& request) {
  wyvern::runtime::ConfigSources sources;
  sources.options_path = request.options.config_path;
  sources.options_body = request.options.config_body;
  WV_TRY(sources.annotations, wyvern::shim::AnnotationsOf(request.bundle));
  wyvern::runtime::SandboxOptions options;
  options.ns = request.ns;
  options.id = request.id;
  options.bundle = request.bundle;
  options.asked_at = wyvern::shim::AskedAt();
  options.cancel = request.cancel;
  WV_TRY_CONTEXT(options.config, wyvern::runtime::LoadConfig(sources), "configuration");
  wyvern::shim::UseLog(options.config->log.level, options.config->log.journal);
  return wyvern::runtime::Sandbox::Start(std::move(options));
}

std::string StateDirectoryOf(const std::string& ns, const std::string& id) {
  // state_dir comes from the system's configuration only, so that everybody finds it again.
  const auto config = wyvern::runtime::LoadConfig({});
  const std::string state_dir =
      config ? (*config)->state_dir : wyvern::runtime::BuiltInConfig().state_dir;
  return wyvern::runtime::StateDirectory(state_dir, ns, id);
}

}  // namespace

int main(int argc, char** argv) {
  wyvern::shim::RuntimeHooks hooks;
  hooks.version = WV_VERSION;
  hooks.start_sandbox = StartSandbox;
  hooks.clean_up = wyvern::runtime::CleanUp;
  hooks.control_socket = [](const std::string& ns, const std::string& id) {
    return StateDirectoryOf(ns, id) + "/control.sock";
  };
  hooks.metrics_socket = [](const std::string& ns, const std::string& id) {
    return StateDirectoryOf(ns, id) + "/metrics.sock";
  };
  return wyvern::shim::ShimMain(argc, argv, hooks);
}
