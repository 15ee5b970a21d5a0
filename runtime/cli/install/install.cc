#include "install/install.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <optional>
#include <utility>

#include "config/config.h"
#include "install/manifest.h"
#include "install/places.h"

namespace wyvern::cli {

namespace {

namespace fs = std::filesystem;

constexpr char kConfig[] = "/etc/wyvern/wyvern.yaml";

// Path of a link → the file of the payload that it stands for.
std::vector<std::pair<std::string, std::string>> PublicLinks(const std::string& root,
                                                             const Payload& payload) {
  std::vector<std::pair<std::string, std::string>> links = {
      {"/usr/bin/wyvern", "bin/wyvern"},
      {"/usr/bin/containerd-shim-wyvern-v2", "bin/containerd-shim-wyvern-v2"},
      {"/usr/libexec/wyvern", "libexec"},
      {"/usr/share/wyvern", "share"},
  };
  const auto has = [&payload](const std::string& path) {
    return payload.documents.contains(path) ||
           std::ranges::find(payload.files, path, &PayloadFile::path) != payload.files.end();
  };
  // Debian's directory of zsh where there is one, else everybody's.
  std::error_code error;
  const char* const zsh = fs::exists(root + "/usr/share/zsh/vendor-completions", error)
                              ? "/usr/share/zsh/vendor-completions/_wyvern"
                              : "/usr/share/zsh/site-functions/_wyvern";
  const std::pair<std::string, std::string> where_there[] = {
      {"/usr/share/bash-completion/completions/wyvern", "share/completions/wyvern.bash"},
      {zsh, "share/completions/_wyvern"},
      {"/usr/share/fish/vendor_completions.d/wyvern.fish", "share/completions/wyvern.fish"},
      {"/usr/lib/systemd/system/wyvern-metrics.service", "share/systemd/wyvern-metrics.service"},
      {"/usr/lib/tmpfiles.d/wyvern.conf", "share/systemd/wyvern.conf"}};
  for (const auto& link : where_there) {
    if (has(link.second)) {
      links.push_back(link);
    }
  }
  for (const auto& [path, text] : payload.documents) {
    if (path.starts_with("share/man/")) {
      links.emplace_back("/usr/" + path, path);
    }
  }
  return links;
}

std::string RelativeTarget(const std::string& link, const std::string& target) {
  return fs::path(target).lexically_relative(fs::path(link).parent_path());
}

bool IsThere(const std::string& path) {
  struct stat info = {};
  return lstat(path.c_str(), &info) == 0;
}

class Installation {
 public:
  Installation(const Payload& payload, const InstallOptions& options)
      : payload_(payload), options_(options), root_(options.root) {}

  Result<InstallReport> Run() {
    std::vector<std::string> made;
    WV_TRY(const UniqueFd lock, LockInstallation(root_, made));
    WV_TRY(manifest_, ReadManifest(root_ + kManifest));
    if (options_.containerd) {
      WV_TRY(containerd_, FindContainerd(root_));
    }
    WV_TRY_VOID(Intend());
    for (std::string& path : made) {
      manifest_.Put({PlacedKind::kDirectory, std::move(path), ""});
    }
    WV_TRY_VOID(WriteManifest(root_ + kManifest, manifest_));
    WV_TRY_VOID(Place());
    WV_TRY_VOID(PlaceConfiguration());
    if (containerd_) {
      WV_TRY(HandlerChange change,
             AddHandler(root_, options_.containerd_config, *containerd_, manifest_));
      report_.restart_containerd = change.restart;
      report_.lines.insert(report_.lines.end(), change.lines.begin(), change.lines.end());
    }
    RemoveStaleLinks();
    RemoveOldVersions();
    manifest_.version = payload_.version;
    WV_TRY_VOID(WriteManifest(root_ + kManifest, manifest_));
    report_.version = payload_.version;
    return std::move(report_);
  }

 private:
  std::string VersionDirectory() const { return fmt::format("{}/{}", kVersions, payload_.version); }

  // Looks whether all can be done, and puts into the manifest what will be.
  Result<> Intend() {
    std::vector<std::string> foreign;
    for (const auto& [path, file] : PublicLinks(root_, payload_)) {
      const std::string target = RelativeTarget(path, std::string(kCurrent) + "/" + file);
      const std::string there = LinkTarget(root_ + path);
      const Placed* ours = manifest_.Find(PlacedKind::kLink, path);
      if (IsThere(root_ + path) && there != target && (ours == nullptr || ours->mark != there)) {
        foreign.push_back(path);
      }
      links_.push_back({PlacedKind::kLink, path, target});
    }
    if (IsThere(root_ + kCurrent) && LinkTarget(root_ + kCurrent).empty()) {
      foreign.emplace_back(kCurrent);
    }
    if (!foreign.empty()) {
      return Fail(Code::kAlreadyExists,
                  fmt::format("not of `wyvern install`, and in the way: {}. Remove or move them, "
                              "then run it again; nothing was changed",
                              fmt::join(foreign, ", ")));
    }
    if (containerd_) {
      WV_TRY_VOID(PlanHandler(root_, options_.containerd_config, *containerd_, manifest_));
    }
    for (const Placed& link : links_) {
      if (manifest_.Find(PlacedKind::kLink, link.path) == nullptr) {
        manifest_.Put(link);
      }
    }
    manifest_.Put({PlacedKind::kLink, kCurrent, ""});
    return {};
  }

  Result<> MakeDirectoriesFor(const std::string& path) {
    std::vector<std::string> made;
    auto done = MakeDirectories(root_, fs::path(path).parent_path(), made);
    for (std::string& directory : made) {
      manifest_.Put({PlacedKind::kDirectory, std::move(directory), ""});
    }
    // Before what goes into them, so that an interrupted run knows them.
    if (!made.empty()) {
      WV_TRY_VOID(WriteManifest(root_ + kManifest, manifest_));
    }
    return done;
  }

  Result<> Place() {
    const std::string directory = VersionDirectory();
    WV_TRY_VOID(MakeDirectoriesFor(directory));
    const bool there = HasPayload(root_ + directory, payload_);
    if (!there) {
      WV_TRY_VOID(PlacePayload(root_ + directory, payload_));
    }
    previous_ = LinkTarget(root_ + kCurrent);
    WV_TRY_VOID(PointLink(root_ + kCurrent, payload_.version));
    for (const Placed& link : links_) {
      WV_TRY_VOID(MakeDirectoriesFor(link.path));
      if (LinkTarget(root_ + link.path) != link.mark) {
        WV_TRY_VOID(PointLink(root_ + link.path, link.mark));
      }
      manifest_.Put(link);
    }
    report_.lines.push_back(
        fmt::format("version {} {} {}", payload_.version, there ? "is in" : "put into", directory));
    return {};
  }

  // The default one, as long as nobody has edited it.
  Result<> PlaceConfiguration() {
    const std::string text = runtime::DefaultYaml();
    const std::string path = root_ + kConfig;
    const Placed* ours = manifest_.Find(PlacedKind::kFile, kConfig);
    if (!IsThere(path) || (ours != nullptr && ours->mark == DigestOf(path))) {
      WV_TRY_VOID(MakeDirectoriesFor(kConfig));
      WV_TRY_VOID(WriteFileAtomically(path, text, 0644));
      manifest_.Put({PlacedKind::kFile, kConfig, HexDigest(text)});
    } else if (DigestOf(path) != HexDigest(text)) {
      report_.lines.push_back(fmt::format(
          "{} kept as it was edited; this version's is /usr/share/wyvern/wyvern.yaml", kConfig));
    }
    runtime::ConfigSources sources;
    sources.file = path;
    sources.directory = root_ + sources.directory;
    if (const auto config = runtime::LoadConfig(sources); !config) {
      report_.lines.push_back("this version does not take the configuration: " +
                              config.error().message());
    }
    return {};
  }

  // Links of an earlier version that this one has not.
  void RemoveStaleLinks() {
    const std::vector<Placed> placed = manifest_.placed;
    for (const Placed& item : placed) {
      if (item.kind != PlacedKind::kLink || item.path == kCurrent ||
          std::ranges::find(links_, item.path, &Placed::path) != links_.end()) {
        continue;
      }
      if (LinkTarget(root_ + item.path) == item.mark) {
        unlink((root_ + item.path).c_str());
      }
      manifest_.Remove(PlacedKind::kLink, item.path);
    }
  }

  void RemoveOldVersions() {
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(root_ + kVersions, error)) {
      const std::string name = entry.path().filename();
      if (!entry.is_directory() || entry.is_symlink() || name == payload_.version) {
        continue;
      }
      const std::vector<std::string> users = UsersOf(root_, entry.path());
      if (!IsThere(root_ + "/proc/self")) {
        report_.lines.push_back(
            fmt::format("version {} kept: no /proc here, where who uses it would be seen", name));
      } else if (!users.empty()) {
        report_.lines.push_back(
            fmt::format("version {} kept for {}", name, fmt::join(users, ", ")));
      } else if (name == previous_) {
        report_.lines.push_back(
            fmt::format("version {} kept until the next install, for who just starts", name));
      } else if (const auto removed = RemoveVersion(entry.path()); removed) {
        report_.lines.push_back(fmt::format("version {} removed", name));
      } else {
        report_.lines.push_back(
            fmt::format("version {} not removed: {}", name, removed.error().message()));
      }
    }
  }

  const Payload& payload_;
  const InstallOptions& options_;
  const std::string root_;
  Manifest manifest_;
  std::optional<Containerd> containerd_;
  std::vector<Placed> links_;
  std::string previous_;
  InstallReport report_;
};

}  // namespace

Result<InstallReport> Install(const Payload& payload, const InstallOptions& options) {
  return Installation(payload, options).Run();
}

}  // namespace wyvern::cli
