// storage/block_source.h — a block device or an image file, opened to be a guest's disk; who else has it on the host is kept away meanwhile.
// How:     writable, a block device is opened with O_EXCL and an image file locked (F_OFD_SETLK): both belong to the open file, so they go with
//          it to whoever it is given to, and end with the last descriptor. Read-only ones may be had by several guests, not by one that writes.
//          Nobody locks a file for a loop device of the host: those are looked for.
// Errors:  NOT_FOUND; INVALID_ARGUMENT: neither of the two, empty, or no whole sectors; FAILED_PRECONDITION: the host or another guest has it,
//          still after a second (a loop device is free a moment after its unmount).
// Threads: any. Blocks for that second.
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>
#include <vector>

#include "base/fd.h"
#include "storage/rootfs.h"

namespace wyvern::runtime {

// Symlinks are followed.
Result<UniqueFd> OpenBlockSource(const std::string& path, bool read_only);
// The block device with that number, by the name that the kernel has for it.
Result<UniqueFd> OpenBlockDevice(dev_t number, bool read_only);

// The list's only mount, if that is a file system of `filesystems` on the root itself and on one device: a guest can do it. nullptr: the host
// does the list.
const MountEntry* DiskMountOf(const std::vector<MountEntry>& mounts,
                              const std::vector<std::string>& filesystems);

}  // namespace wyvern::runtime
