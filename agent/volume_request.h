// agent/volume_request.h — AddVolumeRequest and SetVolumeFilesRequest of agent.proto, checked.
// Errors:  INVALID_ARGUMENT, the text begins with the field: "file[3].path: …". Nothing of a request with an error is used.
// Trust:   the caller is the host; it is bounded all the same, and paths and contents come from whoever may write the pod's secrets.
// Threads: any.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "base/error.h"
#include "proto/agent.pb.h"

namespace wyvern::agent {

inline constexpr int kMaxVolumeFiles = 1024;
inline constexpr size_t kMaxVolumeBytes = 1U << 20;
inline constexpr size_t kMaxVolumeDepth = 16;

struct VolumeOwner {
  mode_t mode = 0;
  uid_t uid = 0;
  gid_t gid = 0;
};

struct WantedMemory {
  uint64_t bytes = 0;
};

struct WantedHugePages {
  uint64_t page_bytes = 0;
  uint64_t bytes = 0;
};

struct WantedFiles {};

struct WantedPart {
  std::string of;
  std::string path;  // relative, no "." or ".."
};

struct WantedVolume {
  std::string name;
  VolumeOwner owner;
  std::variant<WantedMemory, WantedHugePages, WantedFiles, WantedPart> what;
};

struct VolumeEntry {
  std::string path;  // no "." or ".."; its directory is an entry before it
  VolumeOwner owner;
  bool directory = false;
  std::string content;
};

struct VolumeContent {
  std::string name;
  std::string version;
  VolumeOwner owner;
  std::vector<VolumeEntry> entries;
  std::set<std::string> tops;  // first steps of the paths
};

Result<WantedVolume> ParseVolume(const v1::AddVolumeRequest& request);
Result<VolumeContent> ParseVolumeFiles(const v1::SetVolumeFilesRequest& request);
bool IsVolumeName(const std::string& name);

}  // namespace wyvern::agent
