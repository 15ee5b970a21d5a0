// Dispatch, and the operations that concern the session or a whole file system.
#include <fcntl.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/log.h"
#include "fs/file_server.h"

namespace wyvern::fs {

namespace {

// Offered always; the client takes what it knows. As virtiofsd.
constexpr uint64_t kOfferedFlags =
    FUSE_ASYNC_READ | FUSE_ATOMIC_O_TRUNC | FUSE_BIG_WRITES | FUSE_AUTO_INVAL_DATA |
    FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO | FUSE_ASYNC_DIO | FUSE_PARALLEL_DIROPS |
    FUSE_MAX_PAGES | FUSE_CACHE_SYMLINKS | FUSE_SUBMOUNTS | FUSE_HANDLE_KILLPRIV_V2 |
    FUSE_INIT_EXT | kCreateSuppGroup | kAllowIdmap;

// One without the others would leave the umask or the set-group-ID bit to nobody.
constexpr uint64_t kAclFlags = FUSE_POSIX_ACL | FUSE_DONT_MASK | FUSE_SETXATTR_EXT;
constexpr uint64_t kDaxFlags = FUSE_MAP_ALIGNMENT | FUSE_HAS_INODE_DAX;

// FUSE_BATCH_FORGET carries at most this many in the arguments we accept.
constexpr size_t kMaxBatch = kMaxArgumentBytes / sizeof(fuse_forget_one);

}  // namespace

FileServer::Operation FileServer::Lookup(uint32_t opcode) {
  static constexpr std::array<Operation, kOpcodeStatx + 1> kOperations = [] {
    std::array<Operation, kOpcodeStatx + 1> table{};
    table[FUSE_LOOKUP] = &FileServer::LookUpName;
    table[FUSE_FORGET] = &FileServer::ForgetOne;
    table[FUSE_GETATTR] = &FileServer::GetAttr;
    table[FUSE_SETATTR] = &FileServer::SetAttr;
    table[FUSE_READLINK] = &FileServer::ReadLink;
    table[FUSE_SYMLINK] = &FileServer::SymLink;
    table[FUSE_MKNOD] = &FileServer::MkNod;
    table[FUSE_MKDIR] = &FileServer::MkDir;
    table[FUSE_UNLINK] = &FileServer::Unlink;
    table[FUSE_RMDIR] = &FileServer::RmDir;
    table[FUSE_RENAME] = &FileServer::Rename;
    table[FUSE_LINK] = &FileServer::Link;
    table[FUSE_OPEN] = &FileServer::Open;
    table[FUSE_READ] = &FileServer::Read;
    table[FUSE_WRITE] = &FileServer::Write;
    table[FUSE_STATFS] = &FileServer::StatFs;
    table[FUSE_RELEASE] = &FileServer::Release;
    table[FUSE_FSYNC] = &FileServer::Fsync;
    table[FUSE_SETXATTR] = &FileServer::SetXattr;
    table[FUSE_GETXATTR] = &FileServer::GetXattr;
    table[FUSE_LISTXATTR] = &FileServer::ListXattr;
    table[FUSE_REMOVEXATTR] = &FileServer::RemoveXattr;
    table[FUSE_FLUSH] = &FileServer::Flush;
    table[FUSE_INIT] = &FileServer::Init;
    table[FUSE_OPENDIR] = &FileServer::OpenDir;
    table[FUSE_READDIR] = &FileServer::ReadDir;
    table[FUSE_RELEASEDIR] = &FileServer::ReleaseDir;
    table[FUSE_FSYNCDIR] = &FileServer::FsyncDir;
    table[FUSE_GETLK] = &FileServer::GetLock;
    table[FUSE_SETLK] = &FileServer::SetLock;
    table[FUSE_SETLKW] = &FileServer::SetLock;
    table[FUSE_INTERRUPT] = &FileServer::Interrupt;
    table[FUSE_ACCESS] = &FileServer::Access;
    table[FUSE_CREATE] = &FileServer::Create;
    table[FUSE_DESTROY] = &FileServer::Destroy;
    table[FUSE_BATCH_FORGET] = &FileServer::ForgetBatch;
    table[FUSE_FALLOCATE] = &FileServer::Fallocate;
    table[FUSE_READDIRPLUS] = &FileServer::ReadDirPlus;
    table[FUSE_RENAME2] = &FileServer::Rename2;
    table[FUSE_LSEEK] = &FileServer::Seek;
    table[FUSE_COPY_FILE_RANGE] = &FileServer::CopyFileRange;
    table[FUSE_SETUPMAPPING] = &FileServer::SetUpMapping;
    table[FUSE_REMOVEMAPPING] = &FileServer::RemoveMapping;
    table[FUSE_SYNCFS] = &FileServer::SyncFs;
    table[FUSE_TMPFILE] = &FileServer::TmpFile;
    table[kOpcodeStatx] = &FileServer::StatX;
    return table;
  }();
  return opcode < kOperations.size() ? kOperations[opcode] : nullptr;
}

uint32_t FileServer::Handle(std::span<const iovec> in, std::span<const iovec> out,
                            Scratch* scratch) {
  return HandleOrWait(in, out, scratch, nullptr).value_or(0);
}

std::optional<uint32_t> FileServer::HandleOrWait(std::span<const iovec> in,
                                                 std::span<const iovec> out, Scratch* scratch,
                                                 LockWaits::Request* wait) {
  requests_.fetch_add(1, std::memory_order_relaxed);
  auto call = FuseCall::Parse(in, out, scratch);
  if (!call) {
    faults_.fetch_add(1, std::memory_order_relaxed);
    WV_WARN_LIMITED("fs: a request of {} bytes is no FUSE request", IovecLength(in));
    return 0;
  }
  const uint32_t opcode = call->header().opcode;
  const FsResult<size_t> result = Dispatch(*call);
  const std::optional<fuse_lk_in>& lock = call->lock_wait();
  if (wait != nullptr && lock.has_value()) {
    *wait = {call->header().unique, call->header().nodeid, *lock};
    return std::nullopt;
  }
  // These have no reply (fuse.h: FUSE_FORGET "no reply"); an INTERRUPT is answered only to say
  // EAGAIN.
  if (opcode == FUSE_FORGET || opcode == FUSE_BATCH_FORGET || opcode == FUSE_INTERRUPT) {
    return 0;
  }
  const uint32_t written = call->Finish(result);
  if (written == 0) {
    faults_.fetch_add(1, std::memory_order_relaxed);
    WV_WARN_LIMITED("fs: opcode {} has {} bytes of reply space", opcode, IovecLength(out));
  }
  return written;
}

FsResult<size_t> FileServer::Dispatch(FuseCall& call) {
  const uint32_t opcode = call.header().opcode;
  const Operation operation = Lookup(opcode);
  if (operation == nullptr) {
    return FsError(ENOSYS);
  }
  if (!initialized_.load(std::memory_order_relaxed) && opcode != FUSE_INIT) {
    return FsError(EIO);
  }
  if (opcode != FUSE_WRITE) {
    FS_TRY_VOID(call.LoadArguments());
  }
  return (this->*operation)(call);
}

FsResult<size_t> FileServer::Init(FuseCall& call) {
  // The structure grew with FUSE_INIT_EXT: the first four words are always there.
  constexpr size_t kOldSize = 16;
  const size_t size = std::min(sizeof(fuse_init_in), std::max(kOldSize, call.remaining().size()));
  FS_TRY(const fuse_init_in in, call.TakePrefix<fuse_init_in>(size));
  fuse_init_out out{};
  out.major = kFuseMajor;
  out.minor = kFuseMinor;
  if (in.major > kFuseMajor) {
    return call.Reply(out);  // fuse.h: the client tries again with our major version
  }
  if (in.major < kFuseMajor || in.minor < kMinimumMinor) {
    WV_WARN_LIMITED("fs: the guest speaks FUSE {}.{}; 7.{} is the least", in.major, in.minor,
                    kMinimumMinor);
    return FsError(EPROTO);
  }
  // A guest that rebooted without DESTROY starts again.
  Clear();
  uint64_t wanted = in.flags;
  if ((in.flags & FUSE_INIT_EXT) != 0) {
    wanted |= uint64_t{in.flags2} << 32U;
  }
  const uint64_t offered = Offer(wanted);
  out.max_readahead = in.max_readahead;
  out.flags = static_cast<uint32_t>(offered);
  out.flags2 = static_cast<uint32_t>(offered >> 32U);
  out.max_background = 65535;
  out.congestion_threshold = 49149;
  out.max_write = kMaxIoBytes;
  out.time_gran = 1;
  out.max_pages = kMaxIoBytes / 4096;
  out.map_alignment = (offered & FUSE_MAP_ALIGNMENT) != 0 ? kDaxAlignmentLog2 : uint16_t{0};
  initialized_.store(true);
  return call.Reply(out);
}

// What both sides know of what the options allow; remembers what operations depend on.
uint64_t FileServer::Offer(uint64_t wanted) {
  const SessionFeatures& features = options_.features;
  uint64_t offered = kOfferedFlags;
  if (features.posix_locks) {
    offered |= FUSE_POSIX_LOCKS;
  }
  if (features.flock_locks) {
    offered |= FUSE_FLOCK_LOCKS;
  }
  if (features.posix_acl && (wanted & kAclFlags) == kAclFlags) {
    offered |= kAclFlags;
  }
  if (dax_.active()) {
    offered |= kDaxFlags;
  }
  offered &= wanted;
  session_flags_.store(offered);
  submounts_.store((offered & FUSE_SUBMOUNTS) != 0);
  posix_locks_.store((offered & FUSE_POSIX_LOCKS) != 0);
  flock_locks_.store((offered & FUSE_FLOCK_LOCKS) != 0);
  posix_acl_.store((offered & FUSE_POSIX_ACL) != 0);
  inode_dax_.store((offered & FUSE_HAS_INODE_DAX) != 0);
  return offered;
}

FsResult<size_t> FileServer::Destroy(FuseCall& /*call*/) {
  Clear();
  return 0;
}

FsResult<size_t> FileServer::StatFs(FuseCall& call) {
  FS_TRY(const InodeRef inode, inodes_.Find(call.header().nodeid));
  FS_TRY(const PathFd fd, OpenNode(inode));

  struct statfs host {};

  if (::fstatfs(fd->get(), &host) != 0) {
    return LastErrno();
  }
  fuse_statfs_out out{};
  out.st.blocks = host.f_blocks;
  out.st.bfree = host.f_bfree;
  out.st.bavail = host.f_bavail;
  out.st.files = host.f_files;
  out.st.ffree = host.f_ffree;
  out.st.bsize = static_cast<uint32_t>(host.f_bsize);
  out.st.namelen = static_cast<uint32_t>(host.f_namelen);
  out.st.frsize = static_cast<uint32_t>(host.f_frsize);
  return call.Reply(out);
}

FsResult<size_t> FileServer::SyncFs(FuseCall& call) {
  FS_TRY(const InodeRef inode, inodes_.Find(call.header().nodeid));
  if (IsExportsRoot(*inode) || inode->share->policy.read_only) {
    return 0;
  }
  if (!inode->IsDirectory()) {
    return FsError(EINVAL);
  }
  FS_TRY(const PathFd path, OpenNode(inode));
  // syncfs refuses O_PATH descriptors.
  const UniqueFd fd(::openat(path->get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid()) {
    return LastErrno();
  }
  if (::syncfs(fd.get()) != 0) {
    return LastErrno();
  }
  return 0;
}

FsResult<size_t> FileServer::ForgetOne(FuseCall& call) {
  FS_TRY(const auto args, call.Take<fuse_forget_in>());
  Forget(call.header().nodeid, args.nlookup);
  return 0;
}

FsResult<size_t> FileServer::ForgetBatch(FuseCall& call) {
  FS_TRY(const auto args, call.Take<fuse_batch_forget_in>());
  const size_t count = std::min<size_t>(args.count, kMaxBatch);
  for (size_t i = 0; i < count; ++i) {
    FS_TRY(const auto one, call.Take<fuse_forget_one>());
    Forget(one.nodeid, one.nlookup);
  }
  return 0;
}

void FileServer::Forget(uint64_t node, uint64_t count) {
  if (inodes_.Forget(node, count) && dax_.active()) {
    dax_.DropNode(node);
  }
}

}  // namespace wyvern::fs
