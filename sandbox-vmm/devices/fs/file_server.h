// fs/file_server.h — a FUSE server over a directory: requests in, replies out; it knows no queue
// and no socket.
// Spec:    include/uapi/linux/fuse.h 7.38; the operations and INIT flags are those of virtiofsd,
//          and TMPFILE.
// Shape:   root ("/" of wyvern-fs) either is the one shared tree, or its top-level entries are
//          exports that Attach names.
// Errors:  the host's errno goes to the guest unchanged; ESTALE for nodes and files of a detached
//          export.
// Threads: Handle from any number of threads, each with its own Scratch; Attach, Detach, stats from
//          any thread.
// Trust:   requests are the guest's. Names are single components; special files are never opened;
//          what a guest can make us hold (inodes, descriptors, open files, buffers) is bounded by
//          the options.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.h"
#include "fs/export.h"
#include "fs/fuse_abi.h"
#include "fs/fuse_call.h"
#include "fs/handle_table.h"
#include "fs/inode_table.h"

namespace wyvern::fs {

struct FileServerOptions {
  UniqueFd root;  // a directory
  bool exports =
      false;  // top-level entries are exports; else the root is the one export, of `policy`
  ExportPolicy policy;
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
};

class FileServer {
 public:
  static Result<std::unique_ptr<FileServer>> Create(FileServerOptions options);

  // Serves the request in `in`; returns how many bytes of `out` were written, 0 if there is no
  // reply (FORGET).
  uint32_t Handle(std::span<const iovec> in, std::span<const iovec> out, Scratch* scratch);

  // A name that is not attached does not exist for the guest. ALREADY_EXISTS, INVALID_ARGUMENT.
  Result<> Attach(std::string_view name, ExportPolicy policy);
  // The export's nodes and files become stale at once; returns when no descriptor of it is open.
  // NOT_FOUND; DEADLINE_EXCEEDED: requests still use some (they are closed when these end; another
  // call waits for that, and the name cannot be attached before).
  Result<> Detach(std::string_view name, std::chrono::milliseconds timeout);

  // The end of a session: forgets every inode but the root, closes every open file.
  void Clear();

  ServerStats stats() const;

 private:
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

  // ops_attr.cc
  FsResult<size_t> LookUpName(FuseCall& call);
  FsResult<size_t> GetAttr(FuseCall& call);
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

  // What the operations share (file_server.cc).
  FsResult<Entry> FindEntry(const InodeRef& parent, FdRef directory, const char* name);
  FsResult<Entry> FindExport(const InodeRef& root, const char* name);
  FsResult<InodeRef> FindWritable(uint64_t node);
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
  std::atomic<bool> submounts_{false};
  std::atomic<uint64_t> requests_{0};
  std::atomic<uint64_t> faults_{0};
};

// The guest's view of a host inode.
fuse_attr ToFuseAttr(const struct statx& stat);

}  // namespace wyvern::fs
