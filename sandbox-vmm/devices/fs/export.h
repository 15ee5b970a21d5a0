// fs/export.h — one shared tree: its cache policy, whether it is read-only, and whether it still is
// attached.
// Threads: immutable but for `detached`, which goes from false to true once, and what it uses.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>

namespace wyvern::fs {

struct ExportPolicy {
  std::chrono::milliseconds cache{1000};  // how long the guest may use names and attributes unasked
  bool read_only = false;
  // Bytes. With a DAX window, and a guest that mounts with dax=inode: regular files of at least this
  // size are accessed through the window. A file takes 2 MiB of the window at least, and the first
  // access to each 2 MiB is a request, so small files are faster without.
  uint64_t dax_min_bytes = 1 << 20;
};

// What INIT offers beyond what it always offers, for all exports of a server. All off: each has a
// price that only a share with other users than this guest is worth.
struct SessionFeatures {
  // fcntl(2) locks are taken on the host (as open-file-description locks), so that guests of one
  // volume and the host exclude each other; else they hold within the guest. Price: a FLUSH for each
  // close of a file, and a guest process that waits for a lock cannot be killed (Linux' virtio-fs
  // sends no INTERRUPT).
  bool posix_locks = false;
  // The same for flock(2). Price: the unkillable wait.
  bool flock_locks = false;
  // POSIX ACLs in the permission checks of the guest's kernel and in what it creates. Price: a
  // GETXATTR for each inode whose permission is checked, and one on the host for each creation.
  bool posix_acl = false;
  // Requests that may wait for a lock at the same time; ENOLCK beyond. Each keeps a buffer chain of
  // its queue, of which there are as many as the queue's size.
  size_t max_lock_waits = 64;
};

// How long the guest may believe a name or attributes, as FUSE's replies have it.
struct Validity {
  explicit Validity(std::chrono::milliseconds time)
      : seconds(static_cast<uint64_t>(time.count() / 1000)),
        nanoseconds(static_cast<uint32_t>(time.count() % 1000) * 1'000'000) {}

  uint64_t seconds;
  uint32_t nanoseconds;
};

// What the exports of a server share, each of them may have as much of as it leaves free: one that
// takes all it gets leaves half, two leave a third.
inline bool MayTakeOneMore(size_t limit, size_t used_by_all, size_t used_by_it) {
  return used_by_it < limit - used_by_all;
}

struct Export {
  Export(std::string export_name, ExportPolicy export_policy)
      : name(std::move(export_name)), policy(export_policy) {}

  const std::string name;
  const ExportPolicy policy;
  std::atomic<bool> detached{false};
  size_t handles = 0;   // guarded by the HandleTable
  size_t nameless = 0;  // guarded by the InodeTable
};

}  // namespace wyvern::fs
