// guest/modules.h — the modules of a kernel that a Wyvern guest needs, in the order in which they must be loaded.
// Shape:   each module says itself what it depends on (.modinfo), so modules.dep, which depmod makes, is not needed: a package that
//          was only unpacked has none. What is built in is in modules.builtin.
// Errors:  NOT_FOUND: no modules for this kernel, or a driver is missing; both say what to do. DATA_LOSS: a module is damaged.
// Trust:   the directory is hostile: no symlink below it is followed, counts, depths and sizes are bounded.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace wyvern::guest {

struct Driver {
  std::string_view name;     // as in modules.builtin, '-' and '_' are the same
  std::string_view purpose;  // empty: the guest starts without it, too
};

// What a guest starts with, and what containers and later devices use.
std::span<const Driver> GuestDrivers();

struct Module {
  std::string name;
  bool required = false;
  std::string bytes;  // unpacked
};

struct ModuleSet {
  std::vector<Module> modules;       // a module comes after those that it depends on
  std::vector<std::string> missing;  // drivers that are neither there nor built in, nor required
};

// `directory`: /lib/modules/RELEASE, or what holds RELEASE. `extra`: names of further modules, all required.
Result<ModuleSet> CollectModules(const std::string& directory, const std::string& release,
                                 std::span<const std::string> extra);

}  // namespace wyvern::guest
