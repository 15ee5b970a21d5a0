#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <ranges>
#include <utility>

#include "cli/digest.h"
#include "install/containerd_config.h"
#include "install/install.h"
#include "install/places.h"

namespace wyvern::cli {

namespace {

namespace fs = std::filesystem;

class Removal {
 public:
  Removal(std::string root, const Manifest& manifest)
      : root_(std::move(root)), manifest_(manifest) {}

  Result<InstallReport> Run() {
    report_.version = manifest_.version;
    for (const Placed& item : manifest_.placed) {
      switch (item.kind) {
        case PlacedKind::kLines:
          WV_TRY_VOID(RemoveLines(item));
          break;
        case PlacedKind::kFile:
          RemoveFile(item);
          break;
        case PlacedKind::kLink:
          RemoveLink(item);
          break;
        case PlacedKind::kDirectory:
          break;
      }
    }
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(root_ + kVersions, error)) {
      if (entry.is_directory() && !entry.is_symlink()) {
        WV_TRY_VOID(RemoveVersion(entry.path()));
      }
    }
    return std::move(report_);
  }

  // The innermost first; what is not empty stays, and what is in it is not ours.
  void RemoveDirectories() {
    for (const Placed& item : manifest_.placed | std::views::reverse) {
      if (item.kind == PlacedKind::kDirectory) {
        rmdir((root_ + item.path).c_str());
      }
    }
  }

 private:
  Result<> RemoveLines(const Placed& item) {
    const auto text = ReadFile(root_ + item.path);
    const auto without = text ? WithoutHandler(*text) : std::nullopt;
    if (!without) {
      Say("{}: what was added is gone already", item.path);
      return {};
    }
    if (HexDigest(HandlerLines(*text)) != item.mark) {
      Say("{}: what was added had been edited since", item.path);
    }
    WV_TRY_VOID(ReplaceFile(root_ + item.path, *without));
    report_.restart_containerd = true;
    Say("{}: our handler taken out", item.path);
    return {};
  }

  void RemoveFile(const Placed& item) {
    const std::string digest = DigestOf(root_ + item.path);
    if (digest.empty()) {
      Say("{} is gone already", item.path);
    } else if (digest != item.mark) {
      Say("{} stays: it was edited since", item.path);
    } else if (unlink((root_ + item.path).c_str()) == 0) {
      report_.restart_containerd |= item.path.ends_with(".toml");
      Say("{} removed", item.path);
    } else {
      Say("{} stays: {}", item.path, SysError("unlink").value().message());
    }
  }

  void RemoveLink(const Placed& item) {
    const std::string target = LinkTarget(root_ + item.path);
    if (target.empty() ? fs::exists(root_ + item.path)
                       : target != item.mark && item.path != kCurrent) {
      Say("{} stays: it was changed since", item.path);
    } else if (!target.empty() && unlink((root_ + item.path).c_str()) != 0) {
      Say("{} stays: {}", item.path, SysError("unlink").value().message());
    }
  }

  template <typename... Words>
  void Say(fmt::format_string<Words...> format, Words&&... words) {
    report_.lines.push_back(fmt::format(format, std::forward<Words>(words)...));
  }

  const std::string root_;
  const Manifest& manifest_;
  InstallReport report_;
};

}  // namespace

Result<InstallReport> Uninstall(const InstallOptions& options) {
  const std::string& root = options.root;
  WV_TRY(const Manifest manifest, ReadManifest(root + kManifest));
  if (manifest.placed.empty()) {
    return Fail(
        Code::kFailedPrecondition,
        fmt::format("`wyvern install` has put nothing here: {}{} is missing", root, kManifest));
  }
  std::vector<std::string> made;
  WV_TRY(const UniqueFd lock, LockInstallation(root, made));
  std::vector<std::string> users;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(root + kVersions, error)) {
    if (entry.is_directory() && !entry.is_symlink()) {
      const auto more = UsersOf(root, entry.path());
      users.insert(users.end(), more.begin(), more.end());
    }
  }
  if (!users.empty()) {
    return Fail(Code::kFailedPrecondition,
                fmt::format("Wyvern is used by {}: end these sandboxes and programs first; nothing "
                            "was changed",
                            fmt::join(users, ", ")));
  }
  Removal removal(root, manifest);
  WV_TRY(InstallReport report, removal.Run());
  unlink((root + kLock).c_str());
  if (unlink((root + kManifest).c_str()) != 0) {
    return SysError("unlink " + root + kManifest);
  }
  removal.RemoveDirectories();
  if (fs::exists(root + kState, error)) {
    report.lines.push_back(
        fmt::format("{} stays: images, guests or runs of `wyvern run` are there", kState));
  }
  return report;
}

}  // namespace wyvern::cli
