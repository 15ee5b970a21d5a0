// fs/inode_table.h — what the guest's node ids stand for: host inodes, held by O_PATH descriptors
// within a bound.
// Shape:   an inode starts as the name it was found under; when it is used it is opened by its
//          parent's descriptor and that name, compared with its key, and stays open (resident)
//          until others need the place. Works on overlayfs too, where file handles do not.
// Invariants: resident inodes with a name ≤ limit, but for those in use right now; those that cannot
//          be found by a name (unlinked, O_TMPFILE) ≤ a limit of their own, beside which the roots
//          of the exports do not count; a key belongs to one inode at a time; a node id is never
//          used again.
// Threads: any. Lock order: shard (names, descriptor of an inode) before table.
// Trust:   node ids are the guest's.
#pragma once

#include <sys/stat.h>

#include <atomic>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/fd.h"
#include "fs/export.h"
#include "fs/fuse_abi.h"

namespace wyvern::fs {

inline constexpr uint64_t kRootNode = FUSE_ROOT_ID;

struct InodeKey {
  uint64_t mount = 0;
  uint64_t device = 0;
  uint64_t inode = 0;
  bool operator==(const InodeKey&) const = default;
};

struct InodeKeyHash {
  size_t operator()(const InodeKey& key) const {
    uint64_t h = key.inode * 0x9e3779b97f4a7c15ULL;
    h ^= (key.device + 0x7f4a7c15ULL) * 0xbf58476d1ce4e5b9ULL;
    h ^= (key.mount + 0x1ce4e5b9ULL) * 0x94d049bb133111ebULL;
    return static_cast<size_t>(h ^ (h >> 29U));
  }
};

// A counted descriptor that stays open while anyone uses it, also after the inode was evicted or
// its export detached.
class HeldFd {
 public:
  HeldFd(UniqueFd fd, std::shared_ptr<std::atomic<size_t>> count)
      : fd_(std::move(fd)), count_(std::move(count)) {
    count_->fetch_add(1);
  }

  ~HeldFd() {
    fd_.Reset();
    count_->fetch_sub(1);
  }

  HeldFd(const HeldFd&) = delete;
  HeldFd& operator=(const HeldFd&) = delete;

  int get() const { return fd_.get(); }

 private:
  UniqueFd fd_;
  std::shared_ptr<std::atomic<size_t>> count_;
};

using PathFd = std::shared_ptr<const HeldFd>;

class Inode {
 public:
  Inode(uint64_t node_id, const InodeKey& inode_key, uint32_t type, std::shared_ptr<Export> tree)
      : node(node_id), key(inode_key), file_type(type), share(std::move(tree)) {}

  bool IsDirectory() const { return file_type == S_IFDIR; }

  bool IsRegular() const { return file_type == S_IFREG; }

  const uint64_t node;
  const InodeKey key;
  const uint32_t file_type;  // S_IFMT bits
  const std::shared_ptr<Export> share;

 private:
  friend class InodeTable;
  // Guarded by the inode's shard.
  PathFd fd_;
  uint64_t parent_ = 0;  // 0: not known by a name
  std::string name_;
  // Guarded by the table.
  uint64_t lookups_ = 0;
  bool pinned_ = false;  // counted as nameless
  bool listed_ = false;  // in the table's list of evictable inodes, at:
  std::list<std::shared_ptr<Inode>>::iterator position_;
  std::atomic<bool> referenced_{false};
};

using InodeRef = std::shared_ptr<Inode>;

class InodeTable {
 public:
  struct Limits {
    size_t inodes = 4 << 20;     // ENFILE beyond
    size_t resident = 8 << 10;   // descriptors kept of what can be found again by a name
    size_t nameless = 64 << 10;  // descriptors of what cannot; of all exports (MayTakeOneMore)
  };

  explicit InodeTable(Limits limits) : limits_(limits) {}

  // Node 1: never forgotten, never evicted.
  void SetRoot(const InodeKey& key, UniqueFd fd, std::shared_ptr<Export> share);

  // ESTALE: no such node, or its export is detached.
  FsResult<InodeRef> Find(uint64_t node);
  // The inode of a key, if the guest knows it; not counted.
  InodeRef FindKey(const InodeKey& key);

  struct Found {
    InodeKey key;
    uint32_t file_type = 0;
    std::shared_ptr<Export> share;
    uint64_t parent = 0;
    std::string_view name;
    // Has no name (O_TMPFILE), or must not be found by it (the root of an export); needs a
    // descriptor.
    bool keep_resident = false;
    bool nameless = false;  // the former, which the guest can make as many of as it likes
  };

  // Counts one lookup of the key: of the inode known by it, which learns its present name, or of a
  // new one. `fd`, if there is one, is kept as its descriptor. ENFILE at a limit.
  FsResult<InodeRef> Remember(const Found& found, UniqueFd fd);

  // An inode of another server, whose node id and lookups it keeps: nothing is counted. `fd` is its
  // descriptor. EEXIST: one of this node or of this key is there. ENFILE at a limit.
  FsResult<> Restore(uint64_t node, uint64_t lookups, const Found& found, UniqueFd fd);

  // What the guest knows beside the root, by node; for a moment without requests.
  struct Listed {
    InodeRef inode;
    uint64_t lookups = 0;
    uint64_t parent = 0;  // 0: not known by a name
    std::string name;
  };

  std::vector<Listed> List();

  // The node that the next new inode becomes; it only grows.
  uint64_t next_node() const;
  void AdvanceNextNode(uint64_t node);

  // Takes `count` lookups away; true: none was left, the inode is gone. Unknown nodes are ignored.
  bool Forget(uint64_t node, uint64_t count);

  // The descriptor, opened again if it was evicted. ESTALE: the name leads elsewhere now.
  FsResult<PathFd> Open(const InodeRef& inode);

  // Keeps a descriptor of this very inode that was come by in another way.
  PathFd Adopt(const InodeRef& inode, UniqueFd fd);

  // Before the name goes (unlink, rename over): makes it resident for good, as it cannot be found
  // again by a name. If that call fails, or gives another name, SetName follows. ENFILE at the
  // limit of such inodes: the name must stay. ESTALE: the name leads elsewhere now.
  FsResult<> LoseName(const InodeRef& inode, uint64_t parent, std::string_view name);
  void SetName(const InodeRef& inode, uint64_t parent, std::string_view name);

  // Everything but the root goes.
  void Clear();
  // Drops all inodes of one export. The descriptors still in use by requests are appended to
  // `in_use`.
  void DropExport(const Export* share, std::vector<std::weak_ptr<const HeldFd>>* in_use);

  struct Counts {
    size_t inodes = 0;
    size_t resident = 0;  // with a descriptor
  };

  Counts counts() const;

 private:
  static constexpr size_t kShards = 64;

  PathFd Hold(UniqueFd fd) const {
    return std::make_shared<const HeldFd>(std::move(fd), resident_count_);
  }

  std::mutex& ShardOf(const Inode& inode) { return shards_[inode.node % kShards]; }

  InodeRef CountKnownLocked(const Found& found);
  FsResult<InodeRef> AddLocked(uint64_t node, const Found& found, UniqueFd* fd);
  void Refresh(const InodeRef& inode, const Found& found, UniqueFd fd);
  FsResult<PathFd> OpenByName(const InodeRef& inode);
  FsResult<PathFd> OpenStep(const InodeRef& inode, const PathFd& parent);
  PathFd ResidentFd(const InodeRef& inode);
  void AddEvictable(const InodeRef& inode);
  void Evict();
  void EraseLocked(const InodeRef& inode);
  void UnlistLocked(Inode& inode);
  // False at the limit.
  bool PinLocked(Inode& inode);
  void UnpinLocked(Inode& inode);

  const Limits limits_;
  std::mutex shards_[kShards];
  mutable std::shared_mutex mu_;  // the members below
  std::unordered_map<uint64_t, InodeRef> nodes_;
  std::unordered_map<InodeKey, InodeRef, InodeKeyHash> keys_;
  std::list<InodeRef> evictable_;  // oldest first; second chance by Inode::referenced_
  size_t nameless_ = 0;
  uint64_t next_node_ = kRootNode + 1;
  const std::shared_ptr<std::atomic<size_t>> resident_count_ =
      std::make_shared<std::atomic<size_t>>(0);
};

// statx of an O_PATH descriptor (name empty) or of a name in it, never following a link; the fields
// a key and fuse_attr need.
FsResult<struct statx> StatAt(FdRef directory, const char* name,
                              unsigned mask = STATX_BASIC_STATS | STATX_MNT_ID);
InodeKey KeyOf(const struct statx& stat);

}  // namespace wyvern::fs
