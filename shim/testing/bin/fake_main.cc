// containerd-shim-wyvernfake-v2: the shim with local processes instead of microVMs, so that a real containerd can drive it on any machine.
// A test target: never installed.
#include <signal.h>
#include <sys/mount.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>

#include "base/fd.h"
#include "server/serve.h"
#include "testing/fake_sandbox.h"

namespace {

using wyvern::Result;
using wyvern::shim::FakeSandbox;

// The pids of a sandbox whose shim was killed are in its bundle.
Result<> CleanUp(const std::string& /*ns*/, const std::string& /*id*/, const std::string& bundle) {
  if (const auto text = wyvern::ReadFile(bundle + "/fake.pid"); text) {
    const auto pid = static_cast<pid_t>(strtol(text->c_str(), nullptr, 10));
    if (pid > 1) {
      kill(-pid, SIGKILL);
    }
    unlink((bundle + "/fake.pid").c_str());
  }
  umount2((bundle + "/rootfs").c_str(), MNT_DETACH);
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  wyvern::shim::RuntimeHooks hooks;
  hooks.version = "fake";
  hooks.start_sandbox = [](const wyvern::shim::SandboxRequest& request)
      -> Result<std::unique_ptr<wyvern::runtime::Sandbox>> {
    wyvern::runtime::SandboxOptions options;
    options.ns = request.ns;
    options.id = request.id;
    options.bundle = request.bundle;
    return std::make_unique<FakeSandbox>(std::move(options));
  };
  hooks.clean_up = CleanUp;
  hooks.control_socket = [](const std::string&, const std::string& id) {
    const char* const dir = getenv("WYVERN_FAKE_CONTROL_DIR");
    return dir == nullptr ? std::string() : std::string(dir) + "/" + id.substr(0, 12) + ".sock";
  };
  if (const char* const patience = getenv("WYVERN_FAKE_CONNECT_PATIENCE_MS"); patience != nullptr) {
    hooks.connect_patience = std::chrono::milliseconds(strtol(patience, nullptr, 10));
  }
  return wyvern::shim::ShimMain(argc, argv, hooks);
}
