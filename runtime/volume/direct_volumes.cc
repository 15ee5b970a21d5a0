#include "volume/direct_volumes.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "base/fd.h"
#include "oci/json.h"
#include "oci/spec.h"

namespace wyvern::runtime {
namespace {

constexpr char kFile[] = "/mountInfo.json";
constexpr size_t kMaxKey = 255 - 3;  // NAME_MAX, in whole groups
constexpr size_t kMaxOptions = 64;

std::string Base64Url(std::string_view bytes) {
  constexpr std::string_view kLetters =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
  std::string out;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    const auto byte = [&](size_t at) {
      return at < bytes.size() ? static_cast<unsigned char>(bytes[at]) : 0U;
    };
    const uint32_t group = byte(i) << 16U | byte(i + 1) << 8U | byte(i + 2);
    out += kLetters[group >> 18U];
    out += kLetters[group >> 12U & 63U];
    out += i + 1 < bytes.size() ? kLetters[group >> 6U & 63U] : '=';
    out += i + 2 < bytes.size() ? kLetters[group & 63U] : '=';
  }
  return out;
}

auto Wrong(std::string_view member, std::string_view why) {
  return Fail(Code::kInvalidArgument, fmt::format("mount info: {}: {}", member, why));
}

Result<> CheckOptions(const std::vector<std::string>& options) {
  if (options.size() > kMaxOptions) {
    return Wrong("options", fmt::format("more than {}", kMaxOptions));
  }
  for (const std::string& option : options) {
    if (option.empty() || option.size() > 256 ||
        option.find_first_of(std::string_view(",\0\n", 3)) != std::string::npos) {
      return Wrong("options", "each is one word of mount(8), of at most 256 bytes");
    }
  }
  return {};
}

// What a driver asks for must not be left out silently.
Result<> CheckMetadata(const oci::Json& document) {
  const oci::Json* metadata = oci::Child(document, "metadata");
  if (metadata == nullptr || metadata->empty()) {
    return {};
  }
  return Wrong("metadata", fmt::format("'{}' is not supported: who owns the volume's files is the "
                                       "matter of whoever made its file system",
                                       metadata->is_object() ? metadata->begin().key() : "…"));
}

Result<> CheckMember(const std::string& key, const oci::Json& value) {
  if (key == "metadata") {
    return value.is_object() || value.is_null() ? Result<>() : Wrong(key, "must be an object");
  }
  if (key == "options") {
    const bool words = value.is_null() ||
                       (value.is_array() && std::ranges::all_of(value, [](const oci::Json& item) {
                          return item.is_string();
                        }));
    return words ? Result<>() : Wrong(key, "must be an array of strings");
  }
  constexpr std::array<std::string_view, 3> kStrings = {"volume-type", "device", "fstype"};
  if (std::ranges::find(kStrings, key) == kStrings.end()) {
    return Wrong(key.substr(0, 64), "unknown");
  }
  return value.is_string() ? Result<>() : Wrong(key, "must be a string");
}

Result<> CheckDevice(const std::string& device) {
  struct stat info = {};
  if (stat(device.c_str(), &info) != 0) {
    return SysError("device " + device);
  }
  if (!S_ISBLK(info.st_mode)) {
    return Fail(Code::kFailedPrecondition, device + " is no block device");
  }
  return {};
}

}  // namespace

Result<DirectVolume> ParseDirectVolume(std::string_view text) {
  WV_TRY_CONTEXT(const oci::Json document, oci::ParseJson(text, kMaxDirectVolume), "mount info");
  if (!document.is_object()) {
    return Fail(Code::kInvalidArgument, "mount info: must be a JSON object");
  }
  for (const auto& [key, value] : document.items()) {
    WV_TRY_VOID(CheckMember(key, value));
  }
  if (oci::GetString(document, "volume-type") != "block") {
    return Wrong("volume-type", "must be \"block\"");
  }
  WV_TRY_VOID(CheckMetadata(document));
  DirectVolume volume{oci::GetString(document, "device"), oci::GetString(document, "fstype"),
                      oci::GetStrings(document, "options")};
  if (!volume.device.starts_with('/') || volume.device.size() > 4095 ||
      volume.device.find('\0') != std::string::npos) {
    return Wrong("device", "must be the absolute path of a block device");
  }
  if (std::ranges::find(oci::kDiskFilesystems, volume.filesystem) == oci::kDiskFilesystems.end()) {
    return Wrong("fstype", "must be ext2, ext3, ext4, xfs, erofs or squashfs");
  }
  WV_TRY_VOID(CheckOptions(volume.options));
  volume.read_only = oci::IsReadOnlyFilesystem(volume.filesystem) ||
                     std::ranges::find(volume.options, "ro") != volume.options.end();
  return volume;
}

Result<std::string> DirectVolumeKey(std::string_view path) {
  if (!path.starts_with('/') || path.find('\0') != std::string_view::npos) {
    return Fail(Code::kInvalidArgument, "a volume's path is absolute");
  }
  std::string key = Base64Url(path);
  if (key.size() > kMaxKey) {
    return Fail(Code::kInvalidArgument,
                fmt::format("a volume's path has at most {} bytes", kMaxKey / 4 * 3));
  }
  return key;
}

Result<> DirectVolumes::Add(const std::string& path, std::string_view mount_info) const {
  WV_TRY(const std::string key, DirectVolumeKey(path));
  WV_TRY(const DirectVolume volume, ParseDirectVolume(mount_info));
  WV_TRY_VOID(CheckDevice(volume.device));
  // The directory appears with the file in it.
  const std::string made = fmt::format("{}/.{}", directory_, getpid());
  for (const std::string& each : {directory_.substr(0, directory_.rfind('/')), directory_}) {
    if (mkdir(each.c_str(), each == directory_ ? 0700 : 0711) != 0 && errno != EEXIST) {
      return SysError("mkdir " + each);
    }
  }
  if (mkdir(made.c_str(), 0700) != 0 && errno != EEXIST) {
    return SysError("mkdir " + made);
  }
  auto written = WriteFileAtomically(made + kFile, mount_info, 0600);
  const std::string target = directory_ + "/" + key;
  if (written.has_value() && rename(made.c_str(), target.c_str()) != 0) {
    written = errno == ENOTEMPTY || errno == EEXIST
                  ? Fail(Code::kAlreadyExists, path + " is a direct volume already")
                  : SysError("rename to " + target);
  }
  if (!written.has_value()) {
    (void)unlink((made + kFile).c_str());
    (void)rmdir(made.c_str());
  }
  return written;
}

Result<> DirectVolumes::Remove(const std::string& path) const {
  WV_TRY(const std::string key, DirectVolumeKey(path));
  const std::string directory = directory_ + "/" + key;
  if (unlink((directory + kFile).c_str()) != 0 && errno != ENOENT) {
    return SysError("unlink " + directory + kFile);
  }
  if (rmdir(directory.c_str()) != 0) {
    return errno == ENOENT ? Fail(Code::kNotFound, path + " is no direct volume")
                           : SysError("rmdir " + directory);
  }
  return {};
}

Result<std::optional<DirectVolume>> DirectVolumes::Find(const std::string& path) const {
  const auto key = DirectVolumeKey(path);
  if (!key.has_value()) {
    return std::nullopt;  // it cannot be one
  }
  const auto text = ReadFile(directory_ + "/" + *key + kFile, kMaxDirectVolume);
  if (!text.has_value()) {
    if (text.error().sys_errno() == ENOENT || text.error().sys_errno() == ENOTDIR) {
      return std::nullopt;
    }
    return Fail(text.error().code(), "direct volume " + path + ": " + text.error().message());
  }
  WV_TRY_CONTEXT(DirectVolume volume, ParseDirectVolume(*text), "direct volume " + path);
  WV_TRY_VOID_CONTEXT(CheckDevice(volume.device), "direct volume " + path);
  return volume;
}

}  // namespace wyvern::runtime
