// fs/file_server.h — a FUSE server over a directory: requests in, replies out; it knows no queue
// and no socket.
// Spec:    include/uapi/linux/fuse.h 7.41; README.md has the table of operations.
// Shape:   root ("/" of wyvern-fs) either is the one shared tree, or its top-level entries are
//          exports that Attach names.
// Errors:  the host's errno goes to the guest unchanged; ESTALE for nodes and files of a detached
//          export.
// Waits:   only a request for a lock may wait (HandleOrWait); it occupies no thread.
// Threads: Handle from any number of threads, each with its own Scratch; Attach, Detach, stats from
//          any thread.
// Trust:   requests are the guest's. Names are single components; special files are never opened;
//          what a guest can make us hold (inodes, descriptors, open files, buffers) is bounded by
//          the options.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.h"
#include "fs/dax_table.h"
#include "fs/export.h"
#include "fs/fs_state.h"
#include "fs/fuse_abi.h"
#include "fs/fuse_call.h"
#include "fs/handle_table.h"
#include "fs/inode_table.h"
#include "fs/lock_table.h"

namespace wyvern::fs {

struct FileServerOptions {
  UniqueFd root;  // a directory
  bool exports =
      false;  // top-level entries are exports; else the root is the one export, of `policy`
  ExportPolicy policy;
  SessionFeatures features;
  DaxWindow* dax_window = nullptr;  // must outlive the server; null: none
  // Where descriptors are found by number: "" if the process' working directory is /proc/self/fd.
  std::string descriptor_path = "/proc/self/fd/";
  InodeTable::Limits inodes;
  size_t max_handles = 128 << 10;  // of all exports (MayTakeOneMore)
};

struct ServerStats {
  uint64_t requests = 0;
  uint64_t faults = 0;  // requests too short to be answered
  size_t inodes = 0;
  size_t resident = 0;  // inode descriptors
  size_t handles = 0;
  size_t lock_owners = 0;  // of POSIX locks, one descriptor each
  size_t lock_waits = 0;   // requests that wait
  size_t dax_ranges = 0;   // of 2 MiB
};

class FileServer {
 public:
  static Result<std::unique_ptr<FileServer>> Create(FileServerOptions options);

  // Serves the request in `in`; returns how many bytes of `out` were written, 0 if there is no
  // reply (FORGET).
  // A lock that would have to be waited for is EAGAIN.
  uint32_t Handle(std::span<const iovec> in, std::span<const iovec> out, Scratch* scratch);

  // As Handle, but nothing if the request has to wait for a lock: then AddWait follows with `wait`,
  // and the answer, whenever RetryWaits says so, is WriteAnswer's.
  std::optional<uint32_t> HandleOrWait(std::span<const iovec> in, std::span<const iovec> out,
                                       Scratch* scratch, LockWaits::Request* wait);

  // `ticket` is the caller's, unique. False: too many wait (ENOLCK).
  bool AddWait(uint64_t ticket, const LockWaits::Request& wait) { return waits_.Add(ticket, wait); }

  // False: it ended, and is among the result of a RetryWaits.
  bool DropWait(uint64_t ticket) { return waits_.Drop(ticket); }

  // Not tried until ResumeWait. False: it ended.
  bool HoldWait(uint64_t ticket) { return waits_.Hold(ticket); }

  void ResumeWait(uint64_t ticket) { waits_.Resume(ticket); }

  // Those that wait no longer. To be called when waits_changed(), and when ArmNextWait says.
  std::vector<LockWaits::Ended> RetryWaits();

  bool waits_changed() const { return waits_.changed(); }

  void ArmNextWait(const std::function<void(std::chrono::milliseconds)>& arm) const {
    waits_.ArmNext(arm);
  }

  // 0: no DAX window.
  uint64_t dax_window_bytes() const { return dax_.window_bytes(); }

  // A name that is not attached does not exist for the guest. ALREADY_EXISTS, INVALID_ARGUMENT.
  Result<> Attach(std::string_view name, ExportPolicy policy);
  // The export's nodes and files become stale at once; returns when no descriptor of it is open.
  // NOT_FOUND; DEADLINE_EXCEEDED: requests still use some (they are closed when these end; another
  // call waits for that, and the name cannot be attached before).
  Result<> Detach(std::string_view name, std::chrono::milliseconds timeout);

  // What a server of the same files, in another process, needs to go on with this guest; nothing
  // changes here. What cannot be carried is said in it: inodes that no name leads to any more, open
  // files with locks on the host. FAILED_PRECONDITION: what the guest could not even be told of, that
  // is mapped ranges of a DAX window, requests that wait for a lock.
  // Precondition of both: no request is served meanwhile. Attach and Detach may be called.
  Result<FsState> Save();
  // In place of what the guest had here. The exports of the state have been attached. On an error
  // nothing of it is left: FAILED_PRECONDITION: this server offers less than was agreed upon.
  // DATA_LOSS: kAbort, and something is lost.
  Result<> Load(const FsState& state, OnLoss on_loss);

  // The end of a session: forgets every inode but the root, closes every open file.
  void Clear();

  ServerStats stats() const;

 private:
  friend class SessionSave;
  friend class SessionLoad;

  struct Entry {
    InodeRef inode;
    struct statx stat = {};
    bool submount = false;
    bool is_export = false;
  };

  using Operation = FsResult<size_t> (FileServer::*)(FuseCall&);
  static Operation Lookup(uint32_t opcode);

  explicit FileServer(FileServerOptions options);

  // fuse_session.cc
  FsResult<size_t> Dispatch(FuseCall& call);
  FsResult<size_t> Init(FuseCall& call);
  FsResult<size_t> Destroy(FuseCall& call);
  FsResult<size_t> StatFs(FuseCall& call);
  FsResult<size_t> SyncFs(FuseCall& call);
  FsResult<size_t> ForgetOne(FuseCall& call);
  FsResult<size_t> ForgetBatch(FuseCall& call);
  uint64_t Offer(uint64_t wanted);
  void Forget(uint64_t node, uint64_t count);

  // ops_attr.cc
  FsResult<size_t> LookUpName(FuseCall& call);
  FsResult<size_t> GetAttr(FuseCall& call);
  FsResult<size_t> StatX(FuseCall& call);
  FsResult<size_t> SetAttr(FuseCall& call);
  FsResult<size_t> ReadLink(FuseCall& call);
  FsResult<size_t> Access(FuseCall& call);
  FsResult<> SetMode(const PathFd& fd, const fuse_setattr_in& args);
  FsResult<> SetSize(const InodeRef& inode, const PathFd& fd, const fuse_setattr_in& args);
  static FsResult<> SetTimes(const PathFd& fd, const fuse_setattr_in& args);

  // ops_name.cc
  FsResult<size_t> SymLink(FuseCall& call);
  FsResult<size_t> MkNod(FuseCall& call);
  FsResult<size_t> MkDir(FuseCall& call);
  FsResult<size_t> Unlink(FuseCall& call);
  FsResult<size_t> RmDir(FuseCall& call);
  FsResult<size_t> Rename(FuseCall& call);
  FsResult<size_t> Rename2(FuseCall& call);
  FsResult<size_t> Link(FuseCall& call);
  FsResult<size_t> Remove(FuseCall& call, int flags);
  FsResult<size_t> RenameTo(FuseCall& call, uint64_t new_parent, uint32_t flags);
  uint32_t CreationMode(const PathFd& directory, uint32_t mode, uint32_t umask) const;

  // ops_file.cc
  FsResult<size_t> Open(FuseCall& call);
  FsResult<size_t> Create(FuseCall& call);
  FsResult<size_t> TmpFile(FuseCall& call);
  FsResult<size_t> Release(FuseCall& call);
  FsResult<size_t> Flush(FuseCall& call);
  FsResult<size_t> OpenReply(FuseCall& call, const Entry* entry, UniqueFd fd, const InodeRef& inode,
                             uint32_t flags);
  FsResult<UniqueFd> OpenRegular(const InodeRef& inode, uint32_t flags, bool kill_privileges);

  // ops_io.cc
  FsResult<size_t> Read(FuseCall& call);
  FsResult<size_t> Write(FuseCall& call);
  FsResult<size_t> Fsync(FuseCall& call);
  FsResult<size_t> Fallocate(FuseCall& call);
  FsResult<size_t> Seek(FuseCall& call);
  FsResult<size_t> CopyFileRange(FuseCall& call);

  // ops_directory.cc
  FsResult<UniqueFd> OpenDirectory(const InodeRef& inode);
  FsResult<size_t> OpenDir(FuseCall& call);
  FsResult<size_t> ReadDir(FuseCall& call);
  FsResult<size_t> ReadDirPlus(FuseCall& call);
  FsResult<size_t> ReleaseDir(FuseCall& call);
  FsResult<size_t> FsyncDir(FuseCall& call);
  FsResult<size_t> ListDirectory(FuseCall& call, bool plus);
  bool AppendEntry(FuseCall& call, const HandleRef& handle, const InodeRef& parent,
                   const struct DirectoryEntry& entry, std::span<std::byte> reply, size_t* used);

  // ops_xattr.cc
  FsResult<size_t> SetXattr(FuseCall& call);
  FsResult<size_t> GetXattr(FuseCall& call);
  FsResult<size_t> ListXattr(FuseCall& call);
  FsResult<size_t> RemoveXattr(FuseCall& call);

  // ops_lock.cc
  FsResult<size_t> GetLock(FuseCall& call);
  FsResult<size_t> SetLock(FuseCall& call);
  FsResult<size_t> Interrupt(FuseCall& call);
  FsResult<> TryLock(uint64_t node, const fuse_lk_in& args);
  FsResult<UniqueFd> OpenForLocks(const struct Handle& handle) const;

  // ops_dax.cc
  FsResult<size_t> SetUpMapping(FuseCall& call);
  FsResult<size_t> RemoveMapping(FuseCall& call);

  // What the operations share (file_server.cc).
  FsResult<Entry> FindEntry(const InodeRef& parent, FdRef directory, const char* name);
  FsResult<Entry> FindExport(const InodeRef& root, const char* name);
  FsResult<PathFd> OpenNode(const InodeRef& inode);
  FsResult<InodeRef> FindWritable(uint64_t node);
  uint32_t AttrFlags(const Inode& inode, uint64_t size) const;
  FsResult<size_t> ReplyEntry(FuseCall& call, const Entry& entry);
  FsResult<size_t> ReplyAttr(FuseCall& call, const InodeRef& inode, FdRef fd);
  fuse_entry_out ToEntryOut(const Entry& entry) const;
  std::string DescriptorPath(int fd) const;

  bool IsExportsRoot(const Inode& inode) const {
    return options_.exports && inode.node == kRootNode;
  }

  const FileServerOptions options_;
  InodeTable inodes_;
  HandleTable handles_;
  LockTable locks_;
  LockWaits waits_;
  DaxTable dax_;
  std::shared_ptr<Export> root_share_;
  uint64_t root_mount_ = 0;
  mutable std::shared_mutex exports_mu_;
  std::map<std::string, std::shared_ptr<Export>, std::less<>> exports_;  // guarded by exports_mu_
  std::mutex detach_mu_;                                                 // before exports_mu_

  // What requests used when their export was detached.
  struct InUse {
    std::vector<std::weak_ptr<const HeldFd>> paths;
    std::vector<std::weak_ptr<struct Handle>> files;
  };

  std::map<std::string, InUse> leaving_;  // guarded by detach_mu_: detached, but not yet unused
  std::atomic<bool> initialized_{false};
  // What INIT agreed upon.
  std::atomic<uint64_t> session_flags_{0};
  std::atomic<bool> submounts_{false};
  std::atomic<bool> posix_locks_{false};
  std::atomic<bool> flock_locks_{false};
  std::atomic<bool> posix_acl_{false};
  std::atomic<bool> inode_dax_{false};
  std::atomic<uint64_t> requests_{0};
  std::atomic<uint64_t> faults_{0};
};

// The guest's view of a host inode.
fuse_attr ToFuseAttr(const struct statx& stat);
// How long the guest may believe its attributes.
Validity AttributesOf(const Inode& inode);

}  // namespace wyvern::fs
