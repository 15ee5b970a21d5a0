#include <sys/mount.h>

#include <algorithm>
#include <string_view>

#include "storage/rootfs.h"

namespace wyvern::runtime {
namespace {

struct Word {
  std::string_view name;
  bool clear;
  unsigned long flag;
};

// mount(8), "filesystem-independent mount options".
constexpr Word kFlags[] = {
    {"defaults", false, 0},
    {"async", true, MS_SYNCHRONOUS},
    {"atime", true, MS_NOATIME},
    {"bind", false, MS_BIND},
    {"dev", true, MS_NODEV},
    {"diratime", true, MS_NODIRATIME},
    {"dirsync", false, MS_DIRSYNC},
    {"exec", true, MS_NOEXEC},
    {"mand", false, MS_MANDLOCK},
    {"noatime", false, MS_NOATIME},
    {"nodev", false, MS_NODEV},
    {"nodiratime", false, MS_NODIRATIME},
    {"noexec", false, MS_NOEXEC},
    {"nomand", true, MS_MANDLOCK},
    {"norelatime", true, MS_RELATIME},
    {"nostrictatime", true, MS_STRICTATIME},
    {"nosuid", false, MS_NOSUID},
    {"rbind", false, MS_BIND | MS_REC},
    {"relatime", false, MS_RELATIME},
    {"remount", false, MS_REMOUNT},
    {"ro", false, MS_RDONLY},
    {"rw", true, MS_RDONLY},
    {"strictatime", false, MS_STRICTATIME},
    {"suid", true, MS_NOSUID},
    {"sync", false, MS_SYNCHRONOUS},
};

constexpr Word kPropagation[] = {
    {"private", false, MS_PRIVATE},       {"rprivate", false, MS_PRIVATE | MS_REC},
    {"shared", false, MS_SHARED},         {"rshared", false, MS_SHARED | MS_REC},
    {"slave", false, MS_SLAVE},           {"rslave", false, MS_SLAVE | MS_REC},
    {"unbindable", false, MS_UNBINDABLE}, {"runbindable", false, MS_UNBINDABLE | MS_REC},
};

// "a:b\:c" → a, b:c
std::vector<std::string> SplitLayers(std::string_view text) {
  std::vector<std::string> out(1);
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 1 < text.size()) {
      out.back() += text[++i];
    } else if (text[i] == ':') {
      out.emplace_back();
    } else {
      out.back() += text[i];
    }
  }
  return out;
}

bool TakeLayers(std::string_view option, ParsedOptions& out) {
  const auto value = [&](std::string_view name) { return option.substr(name.size()); };
  if (option.starts_with("lowerdir=")) {
    out.lower_dirs = SplitLayers(value("lowerdir="));
  } else if (option.starts_with("upperdir=")) {
    out.upper_dir = value("upperdir=");
  } else if (option.starts_with("workdir=")) {
    out.work_dir = value("workdir=");
  } else {
    return false;
  }
  return true;
}

}  // namespace

ParsedOptions ParseMountOptions(const std::vector<std::string>& options, bool overlay) {
  ParsedOptions out;
  for (const std::string& option : options) {
    const auto flag = std::ranges::find(kFlags, option, &Word::name);
    const auto propagation = std::ranges::find(kPropagation, option, &Word::name);
    if (flag != std::end(kFlags)) {
      out.flags = flag->clear ? out.flags & ~flag->flag : out.flags | flag->flag;
    } else if (propagation != std::end(kPropagation)) {
      out.propagation = propagation->flag;
    } else if (option == "loop") {
      out.loop = true;
    } else if (option.starts_with("uidmap=")) {
      out.users = option.substr(7);
    } else if (option.starts_with("gidmap=")) {
      out.groups = option.substr(7);
    } else if (!option.empty() && !(overlay && TakeLayers(option, out))) {
      out.data += (out.data.empty() ? "" : ",") + option;
    }
  }
  return out;
}

}  // namespace wyvern::runtime
