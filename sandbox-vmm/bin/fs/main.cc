// wyvern-fs — the file server of one sandbox, a vhost-user-fs back-end. Started by the runtime with
// the vhost-user socket at fd 3 and the control socket at fd 4; with --socket-path any front-end
// (QEMU) can use it.
#include <fmt/format.h>
#include <linux/close_range.h>
#include <malloc.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <bit>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <string_view>

#include "base/log.h"
#include "base/unix_socket.h"
#include "fs/serve.h"
#include "fs/version.h"

namespace {

constexpr int kVhostFd = 3;
constexpr int kControlFd = 4;
constexpr const char* kUsage =
    "usage: wyvern-fs [options]\n"
    "  --tag NAME             name of the share in the guest (wyvern)\n"
    "  --queues N             request queues offered, 1 to 64 (4)\n"
    "  --thread-pool-size N   threads that serve requests, 1 to 64 (4)\n"
    "  --shared-dir DIR       share DIR; without it the exports come by the control socket\n"
    "  --readonly             refuse every change to DIR\n"
    "  --cache-ms N           how long the guest may trust what it knows of DIR (1000)\n"
    "  --posix-lock           fcntl(2) locks hold on the host too, not in the guest alone\n"
    "  --flock                the same for flock(2) locks\n"
    "  --posix-acl            POSIX ACLs hold in the guest\n"
    "  --dax-window-mib N     the guest maps files in a window of N MiB, a power of two from 2 to\n"
    "                         16384, if the front-end gives it one of this size (no window)\n"
    "  --migration-on-error abort|guest-error\n"
    "                         if files of a guest that comes from another server are lost: refuse\n"
    "                         it, or let it get errors for these (abort)\n"
    "  --socket-path PATH     listen there for one front-end; else fd 3 is its connected socket\n"
    "  --listen-fd N          accept one front-end on this listening socket\n"
    "  --log-level LEVEL      debug, info, warn or error (info)\n"
    "  --id ID                the sandbox, for log lines\n"
    "  --version, --help\n"
    "example, for QEMU:\n"
    "  wyvern-fs --shared-dir /srv/data --socket-path /run/fs.sock\n";

struct Arguments {
  wyvern::fs_process::ServeOptions serve;
  std::string socket_path;
  unsigned listen_fd = 0;
  wyvern::LogLevel log_level = wyvern::LogLevel::kInfo;
  std::string id;  // of the sandbox, for log lines
};

bool ParseNumber(std::string_view text, unsigned least, unsigned most, unsigned* out) {
  const auto [at, error] = std::from_chars(text.data(), text.data() + text.size(), *out);
  return error == std::errc() && at == text.data() + text.size() && *out >= least && *out <= most;
}

bool ParseFlag(std::string_view name, wyvern::fs_process::ServeOptions* serve) {
  if (name == "--readonly") {
    serve->read_only = true;
  } else if (name == "--posix-lock") {
    serve->features.posix_locks = true;
  } else if (name == "--flock") {
    serve->features.flock_locks = true;
  } else if (name == "--posix-acl") {
    serve->features.posix_acl = true;
  } else {
    return false;
  }
  return true;
}

bool ParseDaxWindow(std::string_view text, uint64_t* bytes) {
  unsigned mebibytes = 0;
  if (!ParseNumber(text, 2, 16384, &mebibytes) || !std::has_single_bit(mebibytes)) {
    return false;
  }
  *bytes = uint64_t{mebibytes} << 20U;
  return true;
}

bool ParseOnLoss(std::string_view text, wyvern::fs::OnLoss* on_loss) {
  *on_loss = text == "abort" ? wyvern::fs::OnLoss::kAbort : wyvern::fs::OnLoss::kGuestError;
  return text == "abort" || text == "guest-error";
}

bool ParseOption(std::string_view name, const char* value, Arguments* arguments) {
  auto& serve = arguments->serve;
  if (name == "--tag") {
    serve.tag = value;
    return !serve.tag.empty() && serve.tag.size() <= 36;
  }
  if (name == "--queues") {
    return ParseNumber(value, 1, 64, &serve.queues);
  }
  if (name == "--thread-pool-size") {
    return ParseNumber(value, 1, 64, &serve.threads);
  }
  if (name == "--cache-ms") {
    return ParseNumber(value, 0, 24U * 3600 * 1000, &serve.cache_ms);
  }
  if (name == "--dax-window-mib") {
    return ParseDaxWindow(value, &serve.dax_window);
  }
  if (name == "--migration-on-error") {
    return ParseOnLoss(value, &serve.on_loss);
  }
  if (name == "--shared-dir") {
    serve.shared_dir = value;
    return !serve.shared_dir.empty();
  }
  if (name == "--socket-path") {
    arguments->socket_path = value;
    return !arguments->socket_path.empty();
  }
  if (name == "--listen-fd") {
    return ParseNumber(value, 3, 1024, &arguments->listen_fd);
  }
  if (name == "--id") {
    arguments->id = value;
    return true;
  }
  if (name == "--log-level") {
    const auto level = wyvern::ParseLogLevel(value);
    if (level) {
      arguments->log_level = *level;
    }
    return level.has_value();
  }
  return false;
}

bool ParseArguments(int argc, char** argv, Arguments* arguments) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view name = argv[i];
    if (ParseFlag(name, &arguments->serve)) {
      continue;
    }
    const char* value = i + 1 < argc ? argv[++i] : nullptr;
    if (value == nullptr || !ParseOption(name, value, arguments)) {
      fmt::print(stderr, "wyvern-fs: bad option or value: {} {}\n", name,
                 value == nullptr ? "" : value);
      return false;
    }
  }
  return true;
}

bool IsSocket(int fd, int type) {
  int found = 0;
  socklen_t length = sizeof(found);
  return getsockopt(fd, SOL_SOCKET, SO_TYPE, &found, &length) == 0 && found == type;
}

wyvern::Result<wyvern::UniqueFd> FrontEnd(const Arguments& arguments) {
  if (!arguments.socket_path.empty()) {
    WV_TRY(const auto listener, wyvern::ListenUnix(arguments.socket_path, 0600));
    auto accepted = wyvern::Accept(listener);
    unlink(arguments.socket_path.c_str());
    return accepted;
  }
  if (arguments.listen_fd != 0) {
    const wyvern::UniqueFd listener(static_cast<int>(arguments.listen_fd));
    return wyvern::Accept(listener);
  }
  if (!IsSocket(kVhostFd, SOCK_STREAM)) {
    return wyvern::Fail(wyvern::Code::kInvalidArgument,
                        "fd 3 is no stream socket: give --socket-path, or see --help");
  }
  return wyvern::UniqueFd(kVhostFd);
}

}  // namespace

#ifdef WV_SANITIZED
// The search for leaks at the end needs /proc and ptrace, which are out of reach by then.
extern "C" int __lsan_is_turned_off();  // NOLINT(bugprone-reserved-identifier)

extern "C" int __lsan_is_turned_off() {  // NOLINT(bugprone-reserved-identifier)
  return 1;
}
#endif

int main(int argc, char** argv) {
  const std::string_view first = argc == 2 ? argv[1] : "";
  if (first == "--version" || first == "--help") {
    fputs(first == "--help" ? kUsage : wyvern::fs_process::kVersionLine, stdout);
    return 0;
  }
  Arguments arguments;
  if (!ParseArguments(argc, argv, &arguments)) {
    fputs(kUsage, stderr);
    return 2;
  }
  wyvern::SetLogComponent("fs");
  if (!arguments.id.empty()) {
    wyvern::SetLogFields({{"sandbox", arguments.id}});
  }
  wyvern::SetLogLevel(arguments.log_level);
  signal(SIGPIPE, SIG_IGN);
  // Few arenas: the process has a handful of threads and should be small.
  mallopt(M_ARENA_MAX, 2);  // NOLINT(concurrency-mt-unsafe): before there are threads
  if (arguments.listen_fd == 0) {
    syscall(SYS_close_range, kControlFd + 1, ~0U, 0);
  }
  if (IsSocket(kControlFd, SOCK_SEQPACKET)) {
    arguments.serve.control_socket = wyvern::UniqueFd(kControlFd);
  }
  auto front_end = FrontEnd(arguments);
  if (!front_end) {
    WV_ERROR("{}", front_end.error().message());
    return 1;
  }
  arguments.serve.vhost_socket = *std::move(front_end);
  const auto served = wyvern::fs_process::Serve(std::move(arguments.serve));
  if (!served) {
    WV_ERROR("{}", served.error().DebugString());
    return 1;
  }
  return 0;
}
