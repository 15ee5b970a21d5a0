// volume/host_volume.h — what the source of a bind mount is on the host: kubelet's volumes that the guest serves better than a share does.
// Kubelet: <root>/pods/<uid>/volumes/kubernetes.io~<plugin>/<name>, and <root>/pods/<uid>/volume-subpaths/… for a subPath: a bind mount of what
//          is in the volume.
// Trust:   the source is a path of config.json; a volume's directory is looked at, nothing in it is opened.
// Threads: any.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>

namespace wyvern::runtime {

struct FileOwner {
  mode_t mode = 0;  // 07777
  uid_t uid = 0;
  gid_t gid = 0;
};

struct HostVolume {
  enum class Kind : uint8_t {
    kShare,      // anything else, also what is not there
    kMemory,     // emptyDir with medium Memory: a tmpfs on the host
    kHugePages,  // emptyDir with medium HugePages: a hugetlbfs on the host
    kFiles,      // ConfigMap, Secret, projected or downward API
  };
  Kind kind = Kind::kShare;
  // Of kMemory and kHugePages:
  std::string
      key;  // the same for all sources within one volume, and for no other's as long as it is mounted
  std::string part;    // "a/b": the directory of the volume that the source is; empty: all of it
  uint64_t bytes = 0;  // the size that it is limited to; 0: none
  uint64_t page_bytes = 0;  // kHugePages
  FileOwner owner;          // of the source
  FileOwner top;            // of the volume's own directory
};

HostVolume LookAtVolume(const std::string& source);

}  // namespace wyvern::runtime
