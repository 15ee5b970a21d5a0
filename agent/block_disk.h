// agent/block_disk.h — the calls on one disk that may block long: to find it by its serial, to mount it, to let go of it. Each runs in a
//                      program of its own (RunDiskCall), because a disk that does not answer would stop the agent.
// Spec:    the attributes of drivers/block/virtio_blk.c (`serial`: at most 20 bytes) and block/genhd.c (`dev`, `ro`, `size`, in units of 512
//          bytes); mount(2), umount2(2), syncfs(2).
// Errors:  those of AddDisk in agent.proto.
// Threads: any.   Trust: what is on a disk is a container's; the guest's kernel reads it, we do not.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace wyvern::agent {

inline constexpr size_t kMaxSerial = 20;  // VIRTIO 1.2 §5.2.6
inline constexpr size_t kMaxMountOptions = 4095;

struct DiskNode {
  std::string name;  // below /dev
  uint32_t major = 0;
  uint32_t minor = 0;
  uint64_t bytes = 0;
  bool read_only = false;
};

struct DiskMount {
  std::string filesystem;
  uint64_t flags = 0;
  std::string options;
  std::string target;  // made; is there no more after Unmount
};

// 1 to 20 of [A-Za-z0-9_-]: also safe as a path component.
bool IsSerial(std::string_view text);
// Whether mount(2) may be told these: nothing that moves, binds or changes what is mounted already.
bool AreMountFlags(uint64_t flags);
// Of /proc/filesystems: those that are on disks.
std::vector<std::string> BlockFilesystems(std::string_view proc_filesystems);

// The disk with that serial; nothing: there is none.
std::optional<DiskNode> FindDisk(const std::string& sys, std::string_view serial);
// Asks again until it is there. NOT_FOUND at the deadline.
Result<DiskNode> AwaitDisk(const std::string& sys, std::string_view serial,
                           std::chrono::milliseconds deadline);

// True: the disk cannot be written, and its journal was left alone. The mount point is made, and removed again on error.
Result<bool> MountDisk(const DiskNode& disk, const DiskMount& mount);

struct DiskLeft {
  bool in_use = false;
  std::string lost;  // as in RemoveDiskResponse
};

// Writes back, unmounts (lazily what stays busy for two seconds), flushes the disk. `target` empty: it is not mounted.
DiskLeft LeaveDisk(const std::string& node, uint32_t major, uint32_t minor,
                   const std::string& target);

// Of the file system mounted at `target`, six numbers, in the order of DiskUsageResponse.
Result<std::string> UsageOf(const std::string& target);
// The file system mounted at `target` takes all of its disk; one that does already stays as it is. UNIMPLEMENTED: not ext4 (as which ext2 and ext3
// are mounted, too) or xfs. FAILED_PRECONDITION: read-only.
Result<> GrowFilesystem(const std::string& target, uint64_t disk_bytes);

// "--add-disk", "--leave-disk" and "--disk-usage" of the agent's command line; the answer goes to descriptor 3 (Crun::AskSelf). Nothing: another call.
std::optional<int> RunDiskCall(const std::vector<std::string>& args);

}  // namespace wyvern::agent
