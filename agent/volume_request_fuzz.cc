// Any bytes as an AddVolumeRequest and as a SetVolumeFilesRequest: what is taken keeps the bounds of agent.proto, and names nothing outside of
// the volume.
#include <cstdlib>
#include <set>

#include "agent/volume_request.h"

namespace {

using wyvern::agent::VolumeContent;
using wyvern::agent::VolumeEntry;

void Require(bool holds) {
  if (!holds) {
    abort();
  }
}

void RequireWithin(const std::string& path) {
  Require(!path.empty() && path.find('\0') == std::string::npos);
  const std::string around = "/" + path + "/";
  for (const char* outside : {"//", "/./", "/../"}) {
    Require(around.find(outside) == std::string::npos);
  }
}

void CheckContent(const VolumeContent& content) {
  Require(content.entries.size() <= wyvern::agent::kMaxVolumeFiles);
  Require(content.version.starts_with("..") && content.version != "..data");
  RequireWithin(content.version);
  std::set<std::string> seen;
  std::set<std::string> directories;
  size_t bytes = 0;
  for (const VolumeEntry& entry : content.entries) {
    RequireWithin(entry.path);
    Require(!entry.path.starts_with("..") && entry.owner.mode <= 07777);
    Require(seen.insert(entry.path).second);
    const size_t slash = entry.path.rfind('/');
    Require(slash == std::string::npos || directories.contains(entry.path.substr(0, slash)));
    Require(content.tops.contains(entry.path.substr(0, entry.path.find('/'))));
    if (entry.directory) {
      Require(entry.content.empty());
      directories.insert(entry.path);
    }
    bytes += entry.content.size();
  }
  Require(bytes <= wyvern::agent::kMaxVolumeBytes);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  wyvern::agent::v1::AddVolumeRequest add;
  if (add.ParseFromArray(data, static_cast<int>(size))) {
    if (const auto wanted = wyvern::agent::ParseVolume(add)) {
      Require(wyvern::agent::IsVolumeName(wanted->name));
      if (const auto* part = std::get_if<wyvern::agent::WantedPart>(&wanted->what)) {
        RequireWithin(part->path);
      }
    } else {
      Require(wanted.error().code() == wyvern::Code::kInvalidArgument);
    }
  }
  wyvern::agent::v1::SetVolumeFilesRequest set;
  if (set.ParseFromArray(data, static_cast<int>(size))) {
    if (const auto content = wyvern::agent::ParseVolumeFiles(set)) {
      CheckContent(*content);
    } else {
      Require(content.error().code() == wyvern::Code::kInvalidArgument);
      Require(content.error().message().size() < 512);
    }
  }
  return 0;
}
