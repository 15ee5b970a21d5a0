#include "agent/volume_request.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <climits>
#include <string_view>
#include <utility>

namespace wyvern::agent {
namespace {

constexpr size_t kMaxName = 63;
constexpr uint32_t kModeBits = 07777;

tl::unexpected<Error> Bad(const std::string& field, const char* why) {
  return Fail(Code::kInvalidArgument, field + ": " + why);
}

bool IsStep(std::string_view step) {
  return !step.empty() && step.size() <= NAME_MAX && step != "." && step != ".." &&
         step.find_first_of(std::string_view("/\0", 2)) == std::string_view::npos;
}

// How many steps; 0: it is no path that stays where it begins.
size_t CountSteps(std::string_view path) {
  if (path.size() >= PATH_MAX) {
    return 0;
  }
  size_t steps = 0;
  while (true) {
    const size_t slash = path.find('/');
    if (!IsStep(path.substr(0, slash))) {
      return 0;
    }
    ++steps;
    if (slash == std::string_view::npos) {
      return steps;
    }
    path.remove_prefix(slash + 1);
  }
}

Result<VolumeOwner> ParseOwner(const v1::VolumeOwner& owner, const std::string& field) {
  if (owner.mode() > kModeBits) {
    return Bad(field + ".mode", "more than 07777");
  }
  // chown(2): -1 means to leave it.
  if (owner.uid() == UINT32_MAX || owner.gid() == UINT32_MAX) {
    return Bad(field, "no such user or group");
  }
  return VolumeOwner{owner.mode(), owner.uid(), owner.gid()};
}

Result<WantedPart> ParsePart(const v1::VolumePart& part) {
  if (!IsVolumeName(part.of())) {
    return Bad("part.of", "bad name of a volume");
  }
  if (CountSteps(part.path()) == 0) {
    return Bad("part.path", "not a path within the volume");
  }
  return WantedPart{part.of(), part.path()};
}

Result<VolumeEntry> ParseFile(const v1::VolumeFile& file, const std::string& field) {
  VolumeEntry entry;
  entry.path = file.path();
  const size_t steps = CountSteps(entry.path);
  if (steps == 0 || steps > kMaxVolumeDepth || entry.path.starts_with("..")) {
    return Bad(field + ".path", "not a path of a volume's file");
  }
  WV_TRY(entry.owner, ParseOwner(file.owner(), field + ".owner"));
  entry.directory = file.what_case() == v1::VolumeFile::kDirectory;
  if (!entry.directory && file.what_case() != v1::VolumeFile::kContent) {
    return Bad(field, "neither content nor directory");
  }
  entry.content = file.content();
  return entry;
}

}  // namespace

bool IsVolumeName(const std::string& name) {
  return !name.empty() && name.size() <= kMaxName && std::ranges::all_of(name, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-';
  });
}

Result<WantedVolume> ParseVolume(const v1::AddVolumeRequest& request) {
  WantedVolume out;
  if (!IsVolumeName(request.name())) {
    return Bad("name", "bad name of a volume");
  }
  out.name = request.name();
  WV_TRY(out.owner, ParseOwner(request.owner(), "owner"));
  switch (request.what_case()) {
    case v1::AddVolumeRequest::kMemory:
      out.what = WantedMemory{request.memory().bytes()};
      return out;
    case v1::AddVolumeRequest::kHugePages:
      if (!std::has_single_bit(request.huge_pages().page_bytes())) {
        return Bad("huge_pages.page_bytes", "not a power of two");
      }
      out.what = WantedHugePages{request.huge_pages().page_bytes(), request.huge_pages().bytes()};
      return out;
    case v1::AddVolumeRequest::kFiles:
      out.what = WantedFiles{};
      return out;
    case v1::AddVolumeRequest::kPart: {
      WV_TRY(out.what, ParsePart(request.part()));
      return out;
    }
    case v1::AddVolumeRequest::WHAT_NOT_SET:
      break;
  }
  return Bad("what", "not given, or of a later version");
}

Result<VolumeContent> ParseVolumeFiles(const v1::SetVolumeFilesRequest& request) {
  VolumeContent out;
  out.name = request.name();
  out.version = request.version();
  if (!IsVolumeName(out.name)) {
    return Bad("name", "bad name of a volume");
  }
  if (!IsStep(out.version) || !out.version.starts_with("..") || out.version == "..data") {
    return Bad("version", "must be the name of a directory that begins with '..'");
  }
  WV_TRY(out.owner, ParseOwner(request.owner(), "owner"));
  if (request.file_size() > kMaxVolumeFiles) {
    return Bad("file", "more than 1024");
  }
  std::set<std::string_view> files;
  std::set<std::string_view> directories;
  size_t bytes = 0;
  for (int i = 0; i < request.file_size(); ++i) {
    const v1::VolumeFile& file = request.file(i);
    const std::string field = fmt::format("file[{}]", i);
    WV_TRY(VolumeEntry entry, ParseFile(file, field));
    bytes += entry.content.size();
    if (bytes > kMaxVolumeBytes) {
      return Bad(field + ".content", "more than 1 MiB with those before");
    }
    const std::string_view path = file.path();
    if (const size_t slash = path.rfind('/');
        slash != std::string_view::npos && !directories.contains(path.substr(0, slash))) {
      return Bad(field + ".path", "its directory does not come before it");
    }
    if (files.contains(path) || directories.contains(path)) {
      return Bad(field + ".path", "is there twice");
    }
    (entry.directory ? directories : files).insert(path);
    out.tops.emplace(path.substr(0, path.find('/')));
    out.entries.push_back(std::move(entry));
  }
  return out;
}

}  // namespace wyvern::agent
