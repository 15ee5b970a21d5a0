#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "oci/translate.h"

namespace wyvern::oci {
namespace {

constexpr std::array<std::string_view, 7> kGuestTypes = {"proc",   "sysfs",  "tmpfs",  "mqueue",
                                                         "devpts", "cgroup", "cgroup2"};
// Of the container's mount, which is a bind in the guest; what else there is belongs to the file system.
constexpr std::array<std::string_view, 28> kMountOptions = {
    "ro",         "rw",          "nosuid",     "suid",        "nodev",
    "dev",        "noexec",      "exec",       "sync",        "async",
    "noatime",    "atime",       "nodiratime", "diratime",    "relatime",
    "private",    "rprivate",    "shared",     "rshared",     "slave",
    "rslave",     "defaults",    "norelatime", "strictatime", "nostrictatime",
    "unbindable", "runbindable", "rro"};

bool Has(const std::vector<std::string>& options, std::string_view word) {
  return std::ranges::find(options, word) != options.end();
}

// The last of "ro" and "rw" counts, as in mount(8).
bool IsReadOnly(const std::vector<std::string>& options) {
  bool read_only = false;
  for (const std::string& option : options) {
    if (option == "ro" || option == "rro") {
      read_only = true;
    } else if (option == "rw" || option == "rrw") {
      read_only = false;
    }
  }
  return read_only;
}

// The mount's words in the guest, and the file system's.
std::pair<std::vector<std::string>, std::vector<std::string>> SplitOptions(
    const std::vector<std::string>& words) {
  std::pair<std::vector<std::string>, std::vector<std::string>> out{{"bind"}, {}};
  for (const std::string& word : words) {
    if (std::ranges::find(kMountOptions, word) != kMountOptions.end()) {
      out.first.push_back(word);
    } else if (!word.empty() && word != "loop") {
      out.second.push_back(word);
    }
  }
  return out;
}

Result<> TranslateDisk(Json& mount, const std::string& field, const TranslateOptions& options,
                       std::vector<DiskMount>& disks) {
  const std::string type = GetString(mount, "type");
  if (std::ranges::find(options.disk_filesystems, type) == options.disk_filesystems.end()) {
    return Fail(Code::kInvalidArgument,
                fmt::format("{}.type: '{}' is refused: the guest's kernel has no such file system; "
                            "mount it on the host and bind it",
                            field, type));
  }
  const std::string source = GetString(mount, "source");
  if (!source.starts_with('/')) {
    return Fail(Code::kInvalidArgument,
                field + ".source: must be the absolute path of a block device or an image file");
  }
  const std::vector<std::string> words = GetStrings(mount, "options");
  auto [mine, its] = SplitOptions(words);
  const bool read_only = IsReadOnly(words) || IsReadOnlyFilesystem(type);
  auto it = std::ranges::find(disks, source, &DiskMount::source);
  if (it == disks.end()) {
    if (disks.size() >= kMaxDisks) {
      return Fail(Code::kInvalidArgument, fmt::format("mounts: more than {} disks", kMaxDisks));
    }
    disks.push_back({fmt::format("{}-b{}", options.share_prefix, disks.size()), source, type,
                     read_only, std::move(its), field});
    it = std::prev(disks.end());
  } else if (it->filesystem != type || it->options != its) {
    return Fail(Code::kInvalidArgument,
                fmt::format("{}: {} is mounted with another type or options by {}", field, source,
                            it->field));
  } else {
    it->read_only &= read_only;
  }
  mount["type"] = "bind";
  mount["source"] = fmt::format("{}/{}", kGuestDisks, it->name);
  mount["options"] = std::move(mine);
  return {};
}

struct MountIds {
  IdMap ids;
  bool recursive = false;
};

// Takes what says so out of the mount.
Result<MountIds> TakeIds(Json& mount, const std::string& field, const IdMap& of_container) {
  MountIds out;
  WV_TRY(out.ids, ReadIdMap(mount, field));
  mount.erase("uidMappings");
  mount.erase("gidMappings");
  std::vector<std::string> rest;
  bool wanted = false;
  for (std::string& word : GetStrings(mount, "options")) {
    if (word == "idmap" || word == "ridmap") {
      wanted = true;
      out.recursive |= word == "ridmap";
    } else if (word.starts_with("idmap=") || word.starts_with("ridmap=")) {
      return Fail(Code::kInvalidArgument,
                  fmt::format("{}.options: {}: write the mappings into uidMappings and gidMappings",
                              field, word));
    } else {
      rest.push_back(std::move(word));
    }
  }
  if (!wanted) {
    return out;
  }
  if (out.ids.empty()) {
    out.ids = of_container;
  }
  if (out.ids.empty()) {
    return Fail(Code::kInvalidArgument,
                field +
                    ".options: idmap: neither the mount has uidMappings and gidMappings nor the "
                    "container a user namespace");
  }
  mount["options"] = std::move(rest);
  return out;
}

void BindInGuest(Json& mount, const GuestSource& source, const MountIds& mapped) {
  if (!mapped.ids.empty() && !source.shared) {
    WriteIdMap(mapped.ids, mount);  // crun does it
  }
  mount["type"] = "bind";
  mount["source"] = source.path;
  if (source.read_only) {
    std::vector<std::string> options = GetStrings(mount, "options");
    std::erase_if(options, [](const std::string& word) { return word == "rw" || word == "rrw"; });
    options.emplace_back("ro");
    mount["options"] = std::move(options);
  }
}

Result<> TranslateBind(Json& mount, const std::string& field, const TranslateOptions& options,
                       const IdMap& ids, std::vector<Export>& exports) {
  WV_TRY(const MountIds mapped, TakeIds(mount, field, ids));
  const std::vector<std::string> words = GetStrings(mount, "options");
  for (const std::string& word : words) {
    if (word == "shared" || word == "rshared") {
      return Fail(
          Code::kInvalidArgument,
          fmt::format("{}.options: {} is refused: what a container mounts is in its virtual "
                      "machine and cannot appear on the host; rslave lets it see what the "
                      "host mounts",
                      field, word));
    }
  }
  std::string source = GetString(mount, "source");
  if (source.empty()) {
    return Fail(Code::kInvalidArgument,
                fmt::format("{}.source: missing: a bind mount needs one", field));
  }
  if (source.front() != '/') {
    source = options.bundle + "/" + source;
  }
  if (source == options.shm_source && GetString(mount, "destination") == "/dev/shm") {
    mount["source"] = kGuestPodShm;
    mount["type"] = "bind";
    return {};
  }
  if (const auto served = options.guest_sources.find(source);
      served != options.guest_sources.end()) {
    BindInGuest(mount, served->second, mapped);
    return {};
  }
  const bool read_only = IsReadOnly(words);
  const bool recursive = Has(words, "rbind") || !Has(words, "bind");
  auto it = std::ranges::find(exports, source, &Export::source);
  if (it == exports.end()) {
    Export added;
    added.name = fmt::format("{}-v{}", options.share_prefix, exports.size());
    added.source = source;
    added.read_only = read_only;
    added.recursive = recursive;
    added.field = field;
    added.ids = mapped.ids;
    added.map_recursively = mapped.recursive;
    exports.push_back(std::move(added));
    it = std::prev(exports.end());
  } else if (it->ids != mapped.ids) {
    return Fail(Code::kInvalidArgument,
                fmt::format("{}: {} is mounted with other ids by {}", field, source, it->field));
  } else {
    it->read_only &= read_only;
    it->recursive |= recursive;
    it->map_recursively |= mapped.recursive;
  }
  it->follow_host_mounts |= Has(words, "slave") || Has(words, "rslave");
  mount["type"] = "bind";
  mount["source"] = fmt::format("{}/{}", kGuestShare, it->name);
  return {};
}

// As containerd mounts them in podsandbox mode: read-only in a read-only root, else for the container to write, and the others see it.
void AddPodFiles(Json& document, const TranslateOptions& options, const IdMap& ids) {
  for (const auto& [destination, source] : options.pod_files) {
    if (Child(document, "mounts") == nullptr) {
      document["mounts"] = Json::array();
    }
    Json& mounts = document["mounts"];
    if (std::ranges::any_of(mounts, [&](const Json& mount) {
          return GetString(mount, "destination") == destination;
        })) {
      continue;
    }
    const Json* root = Child(document, "root");
    const bool read_only = root != nullptr && GetBool(*root, "readonly");
    Json mount = {{"destination", destination},
                  {"type", "bind"},
                  {"source", source},
                  {"options", {"rbind", "rprivate", read_only ? "ro" : "rw"}}};
    if (!ids.empty()) {
      WriteIdMap(ids, mount);
    }
    mounts.push_back(std::move(mount));
  }
}

bool IsPodShm(const Json& mount, const TranslateOptions& options) {
  return options.shm_is_pods && GetString(mount, "destination") == "/dev/shm" &&
         GetString(mount, "type") == "tmpfs";
}

}  // namespace

Result<Volumes> TranslateMounts(Json& document, const TranslateOptions& options, const IdMap& ids) {
  Volumes out;
  AddPodFiles(document, options, ids);
  Json* mounts = Child(document, "mounts");
  if (mounts == nullptr) {
    return out;
  }
  for (size_t i = 0; i < mounts->size(); ++i) {
    Json& mount = (*mounts)[i];
    const std::string field = fmt::format("mounts[{}]", i);
    const std::string destination = GetString(mount, "destination");
    if (destination.empty()) {
      return Fail(Code::kInvalidArgument, fmt::format("{}.destination: missing", field));
    }
    if (destination.front() != '/') {
      mount["destination"] = "/" + destination;
    }
    const std::string type = GetString(mount, "type");
    const std::vector<std::string> words = GetStrings(mount, "options");
    if (IsPodShm(mount, options)) {
      mount["type"] = "bind";
      mount["source"] = kGuestPodShm;
      mount["options"] = {"rbind", "rw", "nosuid", "nodev", "noexec"};
    } else if (type == "bind" || type == "rbind" || Has(words, "bind") || Has(words, "rbind")) {
      WV_TRY_VOID(TranslateBind(mount, field, options, ids, out.exports));
    } else if (Child(mount, "uidMappings") != nullptr || Child(mount, "gidMappings") != nullptr) {
      return Fail(Code::kInvalidArgument,
                  field + ".uidMappings, gidMappings: refused: only a bind mount can be id-mapped");
    } else if (std::ranges::find(kDiskFilesystems, type) != kDiskFilesystems.end()) {
      WV_TRY_VOID(TranslateDisk(mount, field, options, out.disks));
    } else if (std::ranges::find(kGuestTypes, type) == kGuestTypes.end()) {
      return Fail(Code::kInvalidArgument,
                  fmt::format("{}.type: '{}' is refused: the guest mounts bind, proc, sysfs, "
                              "tmpfs, mqueue, devpts and cgroup, and ext2, ext3, ext4, xfs, erofs "
                              "and squashfs from disks; mount other file systems on the host and "
                              "bind them",
                              field, type));
    }
  }
  return out;
}

}  // namespace wyvern::oci
