#include <fcntl.h>
#include <unistd.h>

#include <climits>
#include <cstdio>
#include <filesystem>
#include <vector>

#include "base/fd.h"
#include "base/log.h"
#include "bootstrap/delete.h"
#include "bootstrap/info.h"
#include "bootstrap/socket.h"
#include "bootstrap/start.h"
#include "server/serve.h"
#include "ttrpc/protobuf_log.h"

extern char** environ;

namespace wyvern::shim {

namespace {

constexpr size_t kMaxStdin = 4 << 20;

std::vector<std::string> Environment() {
  std::vector<std::string> env;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    env.emplace_back(*entry);
  }
  return env;
}

// The running program, also when its file was replaced meanwhile (then by the kernel's link to it).
std::string SelfPath() {
  std::error_code error;
  const std::string path = std::filesystem::read_symlink("/proc/self/exe", error);
  return error || path.ends_with(" (deleted)") ? "/proc/self/exe" : path;
}

std::string CurrentDirectory() {
  std::error_code error;
  return std::filesystem::current_path(error).string();
}

// Another directory for sockets; a test's containerd must not meet the machine's own.
std::string SocketDir() {
  const char* const dir =
      getenv("WYVERN_SHIM_SOCKET_DIR");  // NOLINT(concurrency-mt-unsafe): no threads yet
  return dir == nullptr || *dir == '\0' ? kDefaultSocketDir : dir;
}

Result<std::string> Start(const Args& args) {
  StartEnvironment environment;
  environment.bundle = CurrentDirectory();
  if (isatty(STDIN_FILENO) == 0) {
    WV_TRY_CONTEXT(environment.stdin_bytes, ReadToEnd(FdRef(STDIN_FILENO), kMaxStdin),
                   "reading stdin");
  }
  environment.self = SelfPath();
  environment.env = Environment();
  environment.socket_dir = SocketDir();
  return RunStart(args, environment);
}

Result<std::string> Delete(const Args& args, const RuntimeHooks& hooks) {
  DeleteEnvironment environment;
  environment.bundle = args.bundle.empty() ? CurrentDirectory() : args.bundle;
  environment.socket_dir = SocketDir();
  environment.clean_up = hooks.clean_up;
  return RunDelete(args, environment);
}

Result<std::string> Answer(const Args& args, const RuntimeHooks& hooks) {
  switch (args.action) {
    case Action::kStart:
      return Start(args);
    case Action::kDelete:
      return Delete(args, hooks);
    case Action::kInfo:
      return EncodeRuntimeInfo(hooks.version);
    case Action::kVersion:
      return "containerd-shim-wyvern-v2 " + hooks.version + "\n";
    case Action::kHelp:
      return Usage();
    case Action::kServe:
      break;
  }
  WV_TRY_VOID(Serve(args, hooks));
  return std::string();
}

}  // namespace

int ShimMain(int argc, char** argv, const RuntimeHooks& hooks) {
  const std::vector<std::string> words(argv + (argc > 0 ? 1 : 0), argv + argc);
  SetLogComponent("shim");
  // containerd reads stdout and stderr of `start` as one: only an error may be said there, and no line of libprotobuf's, which has one for
  // strings that are no UTF-8, as options of another type may look like.
  ttrpc::LimitProtobufLog();
  SetLogLevel(LogLevel::kError);
  const auto args = ParseArgs(words);
  if (!args) {
    fprintf(stderr, "containerd-shim-wyvern-v2: %s\n%s", args.error().message().c_str(),
            Usage().c_str());
    return 2;
  }
  const auto answer = Answer(*args, hooks);
  if (!answer) {
    fprintf(stderr, "containerd-shim-wyvern-v2: %s\n", answer.error().message().c_str());
    return 1;
  }
  const auto written = WriteAll(FdRef(STDOUT_FILENO), std::string_view(*answer));
  // A clean-up that timed out may hang in a thread: the process ends all the same.
  fflush(stderr);
  _exit(written ? 0 : 1);
}

}  // namespace wyvern::shim
