// volume/host_files.h — a ConfigMap, Secret, projected or downward API volume, read whole as kubelet has written it.
// Kubelet: a directory "..<time>" has the files, the symlink ..data names it, and each key is a symlink through ..data. A change is a new directory
//          and one rename of ..data.
// Trust:   none in what is there: who writes it may change it meanwhile, or be hostile. Nothing is followed or opened but directories and regular
//          files of the volume itself, each judged by the descriptor that is then read.
// Errors:  NOT_FOUND: no such directory. RESOURCE_EXHAUSTED: more than the bounds below. FAILED_PRECONDITION: it is not as kubelet writes it.
//          ABORTED: it changes all the time.
// Threads: any; blocks on the disk.
#pragma once

#include <string>
#include <vector>

#include "base/error.h"
#include "volume/host_volume.h"

namespace wyvern::runtime {

// agent.proto, SetVolumeFilesRequest
inline constexpr size_t kMaxHostFiles = 1024;
inline constexpr size_t kMaxHostFileBytes = 1U << 20;
inline constexpr size_t kMaxHostFileDepth = 16;

struct HostFile {
  std::string path;  // below the version's directory; UTF-8
  FileOwner owner;
  bool directory = false;
  std::string content;
};

struct HostFiles {
  std::string version;          // what ..data names
  FileOwner owner;              // of the volume's directory
  std::vector<HostFile> files;  // a directory before what is in it
  size_t bytes = 0;             // of all contents
};

Result<HostFiles> ReadHostFiles(const std::string& source);
// What ..data names, alone.
Result<std::string> ReadVersion(const std::string& source);

}  // namespace wyvern::runtime
