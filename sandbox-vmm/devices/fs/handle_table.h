// fs/handle_table.h — open files and directories of the guest, by the number (fh) it was given.
// Threads: any; a Handle stays alive while a request uses it, also when another request releases
//          it.
// Trust:   fh comes from the guest: unknown, of the wrong kind, or of a detached export is EBADF or
//          ESTALE.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "fs/export.h"
#include "fs/fuse_abi.h"

namespace wyvern::fs {

struct Handle {
  Handle(UniqueFd descriptor, uint64_t node_id, bool is_directory, std::shared_ptr<Export> tree)
      : share(std::move(tree)), fd(std::move(descriptor)), node(node_id), directory(is_directory) {}

  const std::shared_ptr<Export>
      share;  // before fd: goes after it, so that its use count tells that the fd is closed
  const UniqueFd fd;
  const uint64_t node;
  const bool directory;
  std::atomic<bool> flocked{false};  // has a flock(2) lock of the host
  std::mutex mu;                     // one READDIR at a time
  off_t position = 0;                // where the descriptor stands; guarded by mu
};

using HandleRef = std::shared_ptr<Handle>;

class HandleTable {
 public:
  // `limit`: of all exports (MayTakeOneMore).
  explicit HandleTable(size_t limit) : limit_(limit) {}

  // The fh; ENFILE at the limit, or at what the export may have of it.
  FsResult<uint64_t> Add(HandleRef handle);
  // EBADF: unknown, or a file where a directory is meant. ESTALE: its export is detached. EIO: lost
  // on the way from another server.
  FsResult<HandleRef> Find(uint64_t fh, bool directory) const;
  // The handle of a file of this inode, or nothing: for GETATTR and SETATTR, where fh is a hint.
  HandleRef FindFor(uint64_t fh, uint64_t node) const;
  // Any handle of this inode, or nothing. Looks through all of them.
  HandleRef FindAny(uint64_t node) const;
  // Gives it back, or nothing if it is unknown: it closes when the last request that uses it ends.
  HandleRef Remove(uint64_t fh);
  // A handle of another server, under its number. ENFILE at the limit (what one export may have of
  // it was that server's to say).
  FsResult<> Restore(uint64_t fh, HandleRef handle);
  // One that could not be had: every use of it fails.
  void RestoreLost(uint64_t fh);
  // All of them, by number; for a moment without requests.
  std::vector<std::pair<uint64_t, HandleRef>> List() const;
  // The number of the next one; it only grows.
  uint64_t next() const;
  void AdvanceNext(uint64_t fh);
  // A place for a descriptor that is no handle but counts as one. False at the limit.
  bool Reserve(Export& share);
  void Unreserve(Export& share);
  void Clear();
  void DropExport(const Export* share, std::vector<std::weak_ptr<Handle>>* in_use);
  size_t size() const;

 private:
  const size_t limit_;
  mutable std::shared_mutex mu_;
  std::unordered_map<uint64_t, HandleRef> handles_;
  std::unordered_set<uint64_t> lost_;  // RestoreLost, not yet removed
  size_t reserved_ = 0;
  uint64_t next_ = 1;
};

}  // namespace wyvern::fs
