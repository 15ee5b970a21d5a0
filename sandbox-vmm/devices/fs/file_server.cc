#include "fs/file_server.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cerrno>
#include <thread>

namespace wyvern::fs {

namespace {

constexpr size_t kMaxExports = 4096;

// new_encode_dev of the kernel: what fuse_attr.rdev carries.
uint32_t EncodeDevice(uint32_t major, uint32_t minor) {
  return (minor & 0xffU) | (major << 8U) | ((minor & ~0xffU) << 12U);
}

bool IsExportName(std::string_view name) {
  return !name.empty() && name.size() <= NAME_MAX && name != "." && name != ".." &&
         name.find('/') == std::string_view::npos && name.find('\0') == std::string_view::npos;
}

}  // namespace

// Where nothing is cached, a directory's attributes hold for one tick of the guest's clock, or each
// step of a path would be two requests: its name, and its attributes for the permission.
Validity AttributesOf(const Inode& inode) {
  constexpr std::chrono::milliseconds kOneTick(1);
  const auto cache = inode.share->policy.cache;
  return Validity(inode.IsDirectory() ? std::max(cache, kOneTick) : cache);
}

fuse_attr ToFuseAttr(const struct statx& stat) {
  fuse_attr attr{};
  attr.ino = stat.stx_ino;
  attr.size = stat.stx_size;
  attr.blocks = stat.stx_blocks;
  attr.atime = static_cast<uint64_t>(stat.stx_atime.tv_sec);
  attr.mtime = static_cast<uint64_t>(stat.stx_mtime.tv_sec);
  attr.ctime = static_cast<uint64_t>(stat.stx_ctime.tv_sec);
  attr.atimensec = stat.stx_atime.tv_nsec;
  attr.mtimensec = stat.stx_mtime.tv_nsec;
  attr.ctimensec = stat.stx_ctime.tv_nsec;
  attr.mode = stat.stx_mode;
  attr.nlink = stat.stx_nlink;
  attr.uid = stat.stx_uid;
  attr.gid = stat.stx_gid;
  attr.rdev = EncodeDevice(stat.stx_rdev_major, stat.stx_rdev_minor);
  attr.blksize = stat.stx_blksize;
  return attr;
}

FileServer::FileServer(FileServerOptions options)
    : options_(std::move(options)),
      inodes_(options_.inodes),
      handles_(options_.max_handles),
      locks_(handles_),
      waits_(options_.features.max_lock_waits),
      dax_(options_.dax_window) {}

Result<std::unique_ptr<FileServer>> FileServer::Create(FileServerOptions options) {
  UniqueFd root(::openat(options.root.get(), ".", O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!root.valid()) {
    return SysError("opening the shared directory");
  }
  const auto stat = StatAt(root, "");
  if (!stat) {
    return SysErrorFrom(stat.error().value, "statx of the shared directory");
  }
  std::unique_ptr<FileServer> server(new FileServer(std::move(options)));
  // The directory that holds exports belongs to no export and takes no new names.
  ExportPolicy policy = server->options_.policy;
  if (server->options_.exports) {
    policy = {.cache = std::chrono::milliseconds(0), .read_only = true};
  }
  server->root_share_ = std::make_shared<Export>("", policy);
  server->root_mount_ = stat->stx_mnt_id;
  server->inodes_.SetRoot(KeyOf(*stat), std::move(root), server->root_share_);
  return server;
}

std::string FileServer::DescriptorPath(int fd) const {
  return fmt::format("{}{}", options_.descriptor_path, fd);
}

// A file with several names may be known by one whose directory the guest has forgotten while it uses
// another: then whatever has it open leads to it.
FsResult<PathFd> FileServer::OpenNode(const InodeRef& inode) {
  FsResult<PathFd> fd = inodes_.Open(inode);
  if (fd || fd.error().value != ESTALE) {
    return fd;
  }
  const HandleRef handle = handles_.FindAny(inode->node);
  if (handle == nullptr) {
    return fd;
  }
  UniqueFd path(::open(DescriptorPath(handle->fd.get()).c_str(), O_PATH | O_CLOEXEC));
  if (!path.valid()) {
    return LastErrno();
  }
  return inodes_.Adopt(inode, std::move(path));
}

FsResult<InodeRef> FileServer::FindWritable(uint64_t node) {
  FS_TRY(InodeRef inode, inodes_.Find(node));
  if (inode->share->policy.read_only) {
    return FsError(EROFS);
  }
  return inode;
}

FsResult<FileServer::Entry> FileServer::FindEntry(const InodeRef& parent, FdRef directory,
                                                  const char* name) {
  if (IsExportsRoot(*parent)) {
    return FindExport(parent, name);
  }
  Entry entry;
  FS_TRY(entry.stat, StatAt(directory, name));
  InodeTable::Found found;
  found.key = KeyOf(entry.stat);
  found.file_type = entry.stat.stx_mode & S_IFMT;
  found.share = parent->share;
  found.parent = parent->node;
  found.name = name;
  FS_TRY(entry.inode, inodes_.Remember(found, UniqueFd()));
  entry.submount = found.key.mount != parent->key.mount && entry.inode->IsDirectory();
  return entry;
}

FsResult<FileServer::Entry> FileServer::FindExport(const InodeRef& root, const char* name) {
  InodeTable::Found found;
  {
    const std::shared_lock lock(exports_mu_);
    const auto it = exports_.find(std::string_view(name));
    if (it == exports_.end() || it->second->detached.load()) {
      return FsError(ENOENT);
    }
    found.share = it->second;
  }
  FS_TRY(const PathFd directory, OpenNode(root));
  UniqueFd fd(::openat(directory->get(), name, O_PATH | O_NOFOLLOW | O_CLOEXEC));
  if (!fd.valid()) {
    return LastErrno();
  }
  Entry entry;
  FS_TRY(entry.stat, StatAt(fd, ""));
  if (entry.stat.stx_mnt_id == root_mount_) {
    return FsError(ENOENT);  // the mount point without its mount: ours, not the guest's
  }
  found.key = KeyOf(entry.stat);
  found.file_type = entry.stat.stx_mode & S_IFMT;
  found.keep_resident = true;
  FS_TRY(entry.inode, inodes_.Remember(found, std::move(fd)));
  entry.submount = entry.inode->IsDirectory();
  entry.is_export = true;
  return entry;
}

fuse_entry_out FileServer::ToEntryOut(const Entry& entry) const {
  fuse_entry_out out{};
  const Validity attributes = AttributesOf(*entry.inode);
  // The name of an export may be detached and attached again: asked for each time. Inside, the
  // policy says how long.
  const Validity name(entry.is_export ? std::chrono::milliseconds(0)
                                      : entry.inode->share->policy.cache);
  out.nodeid = entry.inode->node;
  out.attr_valid = attributes.seconds;
  out.attr_valid_nsec = attributes.nanoseconds;
  out.entry_valid = name.seconds;
  out.entry_valid_nsec = name.nanoseconds;
  out.attr = ToFuseAttr(entry.stat);
  out.attr.flags |= AttrFlags(*entry.inode, out.attr.size);
  if (entry.submount && submounts_.load(std::memory_order_relaxed)) {
    out.attr.flags |= FUSE_ATTR_SUBMOUNT;
  }
  return out;
}

uint32_t FileServer::AttrFlags(const Inode& inode, uint64_t size) const {
  const bool dax = inode_dax_.load(std::memory_order_relaxed) && inode.IsRegular() &&
                   size >= inode.share->policy.dax_min_bytes;
  return dax ? uint32_t{FUSE_ATTR_DAX} : 0;
}

FsResult<size_t> FileServer::ReplyEntry(FuseCall& call, const Entry& entry) {
  auto reply = call.Reply(ToEntryOut(entry));
  if (!reply) {
    Forget(entry.inode->node, 1);  // the guest never learns of this lookup
  }
  return reply;
}

FsResult<size_t> FileServer::ReplyAttr(FuseCall& call, const InodeRef& inode, FdRef fd) {
  FS_TRY(const struct statx stat, StatAt(fd, ""));
  const Validity attributes = AttributesOf(*inode);
  fuse_attr_out out{};
  out.attr_valid = attributes.seconds;
  out.attr_valid_nsec = attributes.nanoseconds;
  out.attr = ToFuseAttr(stat);
  out.attr.flags = AttrFlags(*inode, out.attr.size);
  return call.Reply(out);
}

Result<> FileServer::Attach(std::string_view name, ExportPolicy policy) {
  if (!options_.exports || !IsExportName(name)) {
    return Fail(Code::kInvalidArgument, fmt::format("not a name of an export: {}", name));
  }
  const std::unique_lock lock(exports_mu_);
  if (exports_.size() >= kMaxExports) {
    return Fail(Code::kResourceExhausted, "too many exports");
  }
  const auto [it, added] =
      exports_.try_emplace(std::string(name), std::make_shared<Export>(std::string(name), policy));
  if (!added) {
    return Fail(Code::kAlreadyExists, fmt::format("export {} is attached", name));
  }
  return {};
}

Result<> FileServer::Detach(std::string_view name, std::chrono::milliseconds timeout) {
  const std::lock_guard one_at_a_time(detach_mu_);
  std::shared_ptr<Export> share;
  {
    const std::unique_lock lock(exports_mu_);
    const auto it = exports_.find(name);
    if (it == exports_.end()) {
      return Fail(Code::kNotFound, fmt::format("export {} is not attached", name));
    }
    share = it->second;
    share->detached.store(true);
  }
  InUse& in_use = leaving_[share->name];  // of an earlier call, too, that did not see the end
  const auto end = std::chrono::steady_clock::now() + timeout;
  for (;;) {
    // Again in every round: a request under way may have looked up or opened something in between.
    inodes_.DropExport(share.get(), &in_use.paths);
    handles_.DropExport(share.get(), &in_use.files);
    locks_.DropExport(share.get());
    dax_.DropExport(share.get());
    std::erase_if(in_use.paths, [](const auto& path) { return path.expired(); });
    std::erase_if(in_use.files, [](const auto& file) { return file.expired(); });
    if (in_use.paths.empty() && in_use.files.empty() && share.use_count() == 2) {  // exports_, we
      break;
    }
    if (std::chrono::steady_clock::now() >= end) {
      return Fail(Code::kDeadlineExceeded,
                  fmt::format("requests still use {} descriptors of export {}",
                              in_use.paths.size() + in_use.files.size(), name));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  leaving_.erase(share->name);
  const std::unique_lock lock(exports_mu_);
  exports_.erase(share->name);
  return {};
}

void FileServer::Clear() {
  dax_.Clear();
  locks_.Clear();
  handles_.Clear();
  inodes_.Clear();
  initialized_.store(false);
  waits_.NoteChange();  // their nodes are stale now
}

ServerStats FileServer::stats() const {
  const InodeTable::Counts counts = inodes_.counts();
  return {requests_.load(), faults_.load(), counts.inodes, counts.resident,
          handles_.size(),  locks_.size(),  waits_.size(), dax_.mapped_ranges()};
}

}  // namespace wyvern::fs
