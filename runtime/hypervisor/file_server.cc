#include "hypervisor/file_server.h"

#include <fcntl.h>
#include <fmt/format.h>

#include "base/cleanup.h"
#include "base/unix_socket.h"
#include "hypervisor/command_lines.h"
#include "storage/exports.h"

namespace wyvern::runtime {
namespace {

constexpr int kVhostUserFd = 3;
constexpr int kControlFd = 4;

}  // namespace

Result<std::pair<std::unique_ptr<FileServerProcess>, UniqueFd>> FileServerProcess::Spawn(
    const MachineOptions& options) {
  WV_TRY(SocketPair vhost, MakeSocketPair(SOCK_STREAM));
  WV_TRY(SocketPair control, MakeSocketPair(SOCK_SEQPACKET));
  SpawnOptions spawn;
  spawn.argv = FileServerArguments(options);
  spawn.fds = {{2, FdRef(2)}, {kVhostUserFd, vhost.first}, {kControlFd, control.second}};
  spawn.new_process_group = true;
  WV_TRY_CONTEXT(Subprocess process, Subprocess::Spawn(spawn), "starting the file server");
  return std::pair(std::unique_ptr<FileServerProcess>(
                       new FileServerProcess(std::move(process), std::move(control.first))),
                   std::move(vhost.second));
}

// Only once it has confined itself: before that its mount namespace is ours.
Result<FdRef> FileServerProcess::MountNamespace() {
  const std::lock_guard lock(namespace_mu_);
  if (!namespace_.valid()) {
    WV_TRY_VOID(control_.Command("ping"));
    WV_TRY(namespace_, Open(fmt::format("/proc/{}/ns/mnt", process_.pid()), O_RDONLY));
  }
  return FdRef(namespace_);
}

Result<> FileServerProcess::Attach(const std::string& name, FdRef tree,
                                   const ExportPolicy& policy) {
  WV_TRY(const FdRef mounts, MountNamespace());
  WV_TRY_VOID(AttachTree(mounts, tree, name));
  Cleanup undo([&] { static_cast<void>(DetachTree(mounts, name)); });
  WV_TRY_VOID(control_.Command(
      fmt::format("attach {} {} {}", name, policy.cache.count(), policy.read_only ? "ro" : "rw")));
  undo.Cancel();
  return {};
}

Result<> FileServerProcess::Detach(const std::string& name) {
  auto forgotten = control_.Command("detach " + name);
  WV_TRY(const FdRef mounts, MountNamespace());
  WV_TRY_VOID(DetachTree(mounts, name));
  return forgotten;
}

}  // namespace wyvern::runtime
