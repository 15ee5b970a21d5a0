// FileServer::Load: each inode found again and compared, each file opened again.
#include <fcntl.h>
#include <fmt/format.h>

#include <cerrno>
#include <memory>
#include <shared_mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "base/log.h"
#include "fs/file_server.h"

namespace wyvern::fs {

class SessionLoad {
 public:
  explicit SessionLoad(FileServer& server) : server_(server) {}

  Result<> Run(const FsState& state, OnLoss on_loss);

 private:
  Result<> BeginSession(const FsState& state);
  FsResult<> LoadNode(const FsState::Node& node);
  FsResult<> LoadFile(const FsState::OpenFile& file);
  FsResult<std::shared_ptr<Export>> ShareOf(const FsState::Node& node, const Inode& base);
  bool IsTheSame(const FileIdentity& meant, const FileIdentity& found);

  FileServer& server_;
  // Another host numbers its devices in its own way, but one of its devices is always the same one of
  // ours.
  std::unordered_map<uint64_t, uint64_t> devices_;
};

Result<> SessionLoad::Run(const FsState& state, OnLoss on_loss) {
  WV_TRY_VOID(BeginSession(state));
  uint64_t lost_nodes = state.lost_nodes;
  uint64_t lost_files = 0;
  for (const FsState::Node& node : state.nodes) {
    lost_nodes += LoadNode(node) ? 0 : 1;
  }
  for (const FsState::OpenFile& file : state.files) {
    if (!LoadFile(file)) {
      server_.handles_.RestoreLost(file.handle);
      ++lost_files;
    }
  }
  if (lost_nodes == 0 && lost_files == 0) {
    return {};
  }
  const std::string lost =
      fmt::format("{} inodes and {} open files, {} of these as they have locks", lost_nodes,
                  lost_files, state.lost_locked);
  if (on_loss == OnLoss::kAbort) {
    return Fail(Code::kDataLoss, fmt::format("the guest would lose {}", lost));
  }
  WV_WARN("fs: the guest has lost {}", lost);
  return {};
}

// The answer to INIT holds: what was agreed upon must be what this server offers.
Result<> SessionLoad::BeginSession(const FsState& state) {
  server_.inodes_.AdvanceNextNode(state.next_node);
  server_.handles_.AdvanceNext(state.next_handle);
  if (state.minor == 0) {
    return {};
  }
  if (state.minor < kMinimumMinor || state.minor > kFuseMinor || state.max_write > kMaxIoBytes) {
    return Fail(Code::kFailedPrecondition,
                fmt::format("a session of FUSE 7.{} with writes of {} bytes", state.minor,
                            state.max_write));
  }
  if (const uint64_t offered = server_.Offer(state.flags); offered != state.flags) {
    return Fail(
        Code::kFailedPrecondition,
        fmt::format("a session with INIT flags {:#x} that this server does not offer: has it "
                    "the same options?",
                    state.flags & ~offered));
  }
  server_.initialized_.store(true);
  return {};
}

// Beneath the root an export has its own; elsewhere it is that of the directory.
FsResult<std::shared_ptr<Export>> SessionLoad::ShareOf(const FsState::Node& node,
                                                       const Inode& base) {
  if (!server_.IsExportsRoot(base)) {
    return base.share;
  }
  const std::string_view name = std::string_view(node.path).substr(0, node.path.find('/'));
  const std::shared_lock lock(server_.exports_mu_);
  const auto it = server_.exports_.find(name);
  if (it == server_.exports_.end()) {
    return FsError(ENOENT);
  }
  return it->second;
}

bool SessionLoad::IsTheSame(const FileIdentity& meant, const FileIdentity& found) {
  if (meant.inode != found.inode || meant.file_type != found.file_type ||
      meant.birth != found.birth) {
    return false;
  }
  return devices_.try_emplace(meant.device, found.device).first->second == found.device;
}

FsResult<> SessionLoad::LoadNode(const FsState::Node& node) {
  FS_TRY(const InodeRef base, server_.inodes_.Find(node.base));
  FS_TRY(const PathFd directory, server_.OpenNode(base));
  InodeTable::Found found;
  FS_TRY(found.share, ShareOf(node, *base));
  FS_TRY(UniqueFd fd, OpenBeneath(FdRef(directory->get()), node.path.c_str()));
  FS_TRY(const Identified identified, Identify(fd, ""));
  if (!IsTheSame(node.identity, identified.identity)) {
    return FsError(ESTALE);
  }
  found.key = identified.key;
  found.file_type = identified.identity.file_type;
  const bool one_name = node.path.find('/') == std::string::npos;
  const bool of_exports = server_.IsExportsRoot(*base);
  if (of_exports && identified.key.mount == server_.root_mount_) {
    return FsError(ENOENT);  // as FindExport: the mount point without its mount
  }
  if (one_name && !of_exports) {
    found.parent = base->node;
    found.name = node.path;
  } else {
    // Not to be found by a name in a directory that the guest knows.
    found.keep_resident = true;
    found.nameless = !one_name;
  }
  return server_.inodes_.Restore(node.node, node.lookups, found, std::move(fd));
}

FsResult<> SessionLoad::LoadFile(const FsState::OpenFile& file) {
  if (file.node == 0) {
    return FsError(EIO);
  }
  FS_TRY(const InodeRef inode, server_.inodes_.Find(file.node));
  UniqueFd fd;
  if (inode->IsDirectory()) {
    FS_TRY(fd, server_.OpenDirectory(inode));
  } else {
    FS_TRY(fd, server_.OpenRegular(inode, file.flags, false));
  }
  auto handle =
      std::make_shared<Handle>(std::move(fd), inode->node, inode->IsDirectory(), inode->share);
  return server_.handles_.Restore(file.handle, std::move(handle));
}

Result<> FileServer::Load(const FsState& state, OnLoss on_loss) {
  Clear();
  Result<> loaded = SessionLoad(*this).Run(state, on_loss);
  if (!loaded) {
    Clear();
  }
  return loaded;
}

}  // namespace wyvern::fs
