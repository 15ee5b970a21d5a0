#include "bootstrap/socket.h"

#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <filesystem>
#include <thread>

#include "base/log.h"
#include "base/unix_socket.h"
#include "bootstrap/sha256.h"

namespace wyvern::shim {

namespace {

constexpr std::chrono::milliseconds kLockPatience{2000};

// Two `start`s of one pod may meet: only one may replace a stale socket. Whoever holds the lock for long is not one of us: go on without.
Result<UniqueFd> LockDirectory(const std::string& dir) {
  WV_TRY(UniqueFd fd, Open(dir, O_RDONLY | O_DIRECTORY));
  const auto deadline = std::chrono::steady_clock::now() + kLockPatience;
  while (flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (std::chrono::steady_clock::now() > deadline) {
      WV_WARN("lock of {} is held for long: going on without", dir);
      break;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return fd;
}

}  // namespace

std::string SocketPath(const std::string& dir, const std::string& containerd_address,
                       const std::string& ns, const std::string& group) {
  const std::string prefix = containerd_address.empty() ? "" : containerd_address + "/";
  const std::string joined = std::filesystem::path(prefix + ns + "/" + group).lexically_normal();
  return dir + "/" + Sha256Hex(joined);
}

bool IsConnectable(const std::string& path) {
  return ConnectUnix(path).has_value();
}

pid_t ListenerPid(const std::string& path) {
  auto connection = ConnectUnix(path);
  if (!connection) {
    return 0;
  }
  const auto peer = GetPeerCredentials(*connection);
  return peer ? peer->pid : 0;
}

Result<BoundSocket> BindOrReuse(const std::string& path) {
  const std::filesystem::path dir = std::filesystem::path(path).parent_path();
  std::error_code error;
  if (std::filesystem::create_directories(dir, error)) {
    std::filesystem::permissions(dir, std::filesystem::perms::owner_all, error);
  }
  WV_TRY(const UniqueFd lock, LockDirectory(dir));
  auto listener = ListenUnix(path, 0600);
  if (listener) {
    return BoundSocket{*std::move(listener)};
  }
  if (listener.error().sys_errno() != EADDRINUSE) {
    return tl::unexpected(std::move(listener).error());
  }
  if (IsConnectable(path)) {
    return BoundSocket{};
  }
  if (unlink(path.c_str()) != 0 && errno != ENOENT) {
    return SysError("unlink " + path);
  }
  WV_TRY(UniqueFd fresh, ListenUnix(path, 0600));
  return BoundSocket{std::move(fresh)};
}

}  // namespace wyvern::shim
