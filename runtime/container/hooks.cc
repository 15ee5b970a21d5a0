#include "container/hooks.h"

#include <fmt/format.h>
#include <unistd.h>

#include "base/subprocess.h"
#include "oci/json.h"

namespace wyvern::runtime {
namespace {

constexpr int kDefaultTimeoutMs = 120000;
constexpr size_t kErrorText = 500;

std::string StateJson(const HookState& state) {
  oci::Json json = {{"ociVersion", "1.0.2"},
                    {"id", state.id},
                    {"status", state.status},
                    {"bundle", state.bundle}};
  if (state.pid > 0) {
    json["pid"] = state.pid;
  }
  if (!state.annotations.empty()) {
    json["annotations"] = state.annotations;
  }
  return oci::Dump(json);
}

Result<UniqueFd> InputOf(const std::string& text) {
  WV_TRY(UniqueFd fd, MakeMemfd("hook-state", 0));
  WV_TRY_VOID(WriteAll(fd, std::string_view(text)));
  if (lseek(fd.get(), 0, SEEK_SET) != 0) {
    return SysError("lseek");
  }
  return fd;
}

}  // namespace

Result<> RunHooks(const char* kind, const std::vector<oci::Hook>& hooks, const HookState& state) {
  const std::string text = StateJson(state);
  for (const oci::Hook& hook : hooks) {
    WV_TRY(const UniqueFd input, InputOf(text));
    SpawnOptions spawn;
    spawn.argv = hook.args.empty() ? std::vector<std::string>{hook.path} : hook.args;
    spawn.argv[0] = hook.path;
    spawn.env = hook.env;
    spawn.cwd = state.bundle;
    spawn.fds = {{0, input}};
    const int timeout = hook.timeout_seconds > 0 ? hook.timeout_seconds * 1000 : kDefaultTimeoutMs;
    WV_TRY_CONTEXT(const CommandOutput output, RunCommand(spawn, timeout),
                   fmt::format("{} hook {}", kind, hook.path));
    if (output.status.AsShell() != 0) {
      return Fail(Code::kAborted,
                  fmt::format("{} hook {} ended with {}: {}", kind, hook.path,
                              output.status.AsShell(), output.err.substr(0, kErrorText)));
    }
  }
  return {};
}

}  // namespace wyvern::runtime
