// fs/confine.h — wyvern-fs gives up everything but files: own empty root, own network, file
// capabilities only, few system calls.
// Shape:   the process' root is an empty tmpfs (private propagation) into which the runtime moves
//          the exports; its working directory is a mount of its own /proc/<pid>/fd and of nothing
//          above, so that descriptors can be opened again by number.
// Threads: Confine while the process has one thread; InstallFilter binds every thread there is.
// Errors:  an Error means that the process must not go on.
#pragma once

#include <sys/resource.h>

#include <cstdint>
#include <span>

#include "base/fd.h"
#include "fs/export.h"

namespace wyvern::fs_process {

struct ConfineOptions {
  FdRef shared_tree{
      -1};  // a detached mount (open_tree) that becomes the root instead of the empty tmpfs
  rlim_t open_files = 0;  // RLIMIT_NOFILE wanted; less if the hard limit cannot be raised
};

// What a file server needs: names and files of every user, and devices' names. Not
// CAP_DAC_READ_SEARCH: it would open the whole host file system by handles (open_by_handle_at), and
// CAP_DAC_OVERRIDE serves for reading.
std::span<const int> KeptCapabilities();

// In this order: RLIMIT_NOFILE; mount, network, IPC, UTS and cgroup namespaces; root and working
// directory; no core dump, not dumpable; capabilities; no new privileges. Returns the descriptor
// limit in force. Needs CAP_SYS_ADMIN.
Result<rlim_t> Confine(const ConfineOptions& options);

// The system calls that serving files with these features needs; everything else ends the process
// (SIGSYS, reported).
Result<> InstallFilter(const fs::SessionFeatures& features);
// By number, whatever the features; for the filter's test.
std::span<const int> AllowedCalls();

// A detached, private clone of the tree at `path` (open_tree), read-only if asked.
Result<UniqueFd> CloneSharedTree(const std::string& path, bool read_only);

}  // namespace wyvern::fs_process
