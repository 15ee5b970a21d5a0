// guest/module_tree.h — a kernel's directory of modules: which there are, which are built in, and the bytes of one.
// Trust:   hostile: no symlink below the directory is followed; number, depth and sizes are bounded.
#pragma once

#include <map>
#include <set>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/fd.h"

namespace wyvern::guest {

// "kernel/drivers/char/hw_random/virtio-rng.ko.xz" → "virtio_rng"; empty: the name of no module.
std::string ModuleName(std::string_view path);

class ModuleTree {
 public:
  // `directory`: /lib/modules/RELEASE or its parent. NOT_FOUND says which directory to give.
  static Result<ModuleTree> Open(const std::string& directory, const std::string& release);

  bool IsBuiltIn(const std::string& name) const { return built_in_.contains(name); }

  bool Has(const std::string& name) const { return paths_.contains(name); }

  // The unpacked module. Preconditions: Has(name).
  Result<std::string> Read(const std::string& name) const;

  const std::string& directory() const { return directory_; }

 private:
  ModuleTree() = default;

  Result<> Index(const std::string& path, int depth);

  std::string directory_;
  UniqueFd root_;
  std::set<std::string, std::less<>> built_in_;
  std::map<std::string, std::string, std::less<>> paths_;  // by name, relative to root_
};

}  // namespace wyvern::guest
