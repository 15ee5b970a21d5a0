// volume/direct_volumes.h — directories of the host that stand for a block device: a container that bind-mounts one gets the device as a disk of its
//                           guest, with the file system mounted there. As Kata's direct-assigned volumes, for CSI drivers and people.
// Shape:   <state>/direct-volumes/<key>/mountInfo.json; <key> is the volume's path in base64url (RFC 4648 §5, with padding), the file what Kata's
//          `direct-volume add --mount-info` takes: {"volume-type":"block","device":"/dev/vdb","fstype":"ext4","metadata":{},"options":["ro"]}.
// Errors:  INVALID_ARGUMENT names the member; NOT_FOUND; ALREADY_EXISTS; FAILED_PRECONDITION: the device is no block device.
// Trust:   root of the host writes it; each byte is checked all the same, when it is written and when it is read.
// Threads: any, and any process: a registration is there as a whole or not at all.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace wyvern::runtime {

struct DirectVolume {
  std::string device;      // absolute path of a block device
  std::string filesystem;  // of oci::kDiskFilesystems
  std::vector<std::string> options;
  bool read_only = false;  // by its options, or for ever
};

inline constexpr size_t kMaxDirectVolume = 64U << 10;  // bytes

Result<DirectVolume> ParseDirectVolume(std::string_view json);
// INVALID_ARGUMENT: no absolute path, or one whose key no file name has room for (189 bytes at most).
Result<std::string> DirectVolumeKey(std::string_view path);

class DirectVolumes {
 public:
  explicit DirectVolumes(const std::string& state_dir)
      : directory_(state_dir + "/direct-volumes") {}

  // From the next container on that mounts `path`.
  Result<> Add(const std::string& path, std::string_view mount_info) const;
  // Containers that have it keep it.
  Result<> Remove(const std::string& path) const;
  // nullopt: `path` stands for itself.
  Result<std::optional<DirectVolume>> Find(const std::string& path) const;

 private:
  const std::string directory_;
};

}  // namespace wyvern::runtime
