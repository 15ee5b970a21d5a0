#include "guest/modules.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <utility>

#include "guest/elf_file.h"
#include "guest/module_tree.h"

namespace wyvern::guest {

namespace {

constexpr std::array<Driver, 19> kDrivers = {{
    {"virtio_pci", "the bus of all devices"},
    {"virtio_pmem", "the device of the guest's root"},
    {"nd_pmem", "the device of the guest's root"},
    {"erofs", "the guest's root file system"},
    {"vmw_vsock_virtio_transport", "the connection between runtime and agent"},
    {"virtiofs", "the containers' root file systems"},
    {"overlay", ""},
    {"virtio_rng", ""},
    {"virtio_blk", ""},
    {"virtio_net", ""},
    {"virtio_mem", ""},
    {"virtio_balloon", ""},
    {"virtio_console", ""},
    {"pvpanic_pci", ""},
    {"pvpanic_mmio", ""},
    {"ext4", ""},
    {"loop", ""},
    {"tun", ""},
    {"veth", ""},
}};

constexpr int kMaxDependencies = 64;  // of each other, one below the other

class Resolver {
 public:
  Resolver(const ModuleTree& tree, const std::string& release) : tree_(tree), release_(release) {}

  // False: the kernel has no such driver, in no form.
  Result<bool> Add(const std::string& wanted, bool required, int depth = 0);

  std::vector<Module> Take() { return std::move(modules_); }

 private:
  Result<Module> Load(const std::string& name, ModuleInfo* info) const;
  // What was added for something optional may turn out to be required.
  Result<> AddBefore(const std::string& name, const ModuleInfo& info, bool required, int depth);

  const ModuleTree& tree_;
  const std::string& release_;
  std::vector<Module> modules_;
  std::map<std::string, ModuleInfo> seen_;
};

Result<Module> Resolver::Load(const std::string& name, ModuleInfo* info) const {
  Module module{.name = name, .required = false, .bytes = {}};
  WV_TRY(module.bytes, tree_.Read(name));
  WV_TRY_CONTEXT(*info, ReadModuleInfo(module.bytes), name);
  if (info->release != release_) {
    return Fail(Code::kNotFound,
                fmt::format("{} holds modules of the kernel {}, not of {}: give --modules the "
                            "directory /lib/modules/{} of the system or package that the kernel is "
                            "from",
                            tree_.directory(), info->release, release_, release_));
  }
  return module;
}

Result<> Resolver::AddBefore(const std::string& name, const ModuleInfo& info, bool required,
                             int depth) {
  if (depth >= kMaxDependencies) {
    return Fail(Code::kDataLoss, name + ": its dependencies have no end");
  }
  for (const std::string& wish : info.wishes) {
    WV_TRY(const bool found, Add(wish, required, depth + 1));
    if (!found) {
      // An algorithm rather than a module ("crc32c"): this is the one that works on every machine.
      WV_TRY_VOID(Add(wish + "_generic", required, depth + 1));
    }
  }
  for (const std::string& needed : info.depends) {
    WV_TRY(const bool found, Add(needed, required, depth + 1));
    if (!found) {
      return Fail(Code::kNotFound,
                  fmt::format("the module {} needs {}, which {} does not have: is the directory "
                              "complete?",
                              name, needed, tree_.directory()));
    }
  }
  return {};
}

Result<bool> Resolver::Add(const std::string& wanted, bool required, int depth) {
  std::string name = wanted;
  std::ranges::replace(name, '-', '_');
  if (tree_.IsBuiltIn(name)) {
    return true;
  }
  if (!tree_.Has(name)) {
    return false;
  }
  const auto known = std::ranges::find(modules_, name, &Module::name);
  if (known != modules_.end()) {
    if (required && !std::exchange(known->required, true)) {
      const ModuleInfo info = seen_[name];
      WV_TRY_VOID(AddBefore(name, info, true, depth));
    }
    return true;
  }
  if (seen_.contains(name)) {
    return true;  // on its way already: modules that depend on each other
  }
  ModuleInfo& info = seen_[name];
  WV_TRY(Module module, Load(name, &info));
  module.required = required;
  WV_TRY_VOID(AddBefore(name, info, required, depth));
  modules_.push_back(std::move(module));
  return true;
}

}  // namespace

std::span<const Driver> GuestDrivers() {
  return kDrivers;
}

Result<ModuleSet> CollectModules(const std::string& directory, const std::string& release,
                                 std::span<const std::string> extra) {
  WV_TRY(const ModuleTree tree, ModuleTree::Open(directory, release));
  Resolver resolver(tree, release);
  ModuleSet set;
  for (const Driver& driver : GuestDrivers()) {
    const std::string name(driver.name);
    WV_TRY(const bool found, resolver.Add(name, !driver.purpose.empty()));
    if (!found && !driver.purpose.empty()) {
      return Fail(Code::kNotFound,
                  fmt::format("the kernel {} has no driver {}, {}: it is neither built in nor a "
                              "module in {}; take a kernel that has it",
                              release, name, driver.purpose, tree.directory()));
    }
    if (!found) {
      set.missing.push_back(name);
    }
  }
  for (const std::string& name : extra) {
    WV_TRY(const bool found, resolver.Add(name, true));
    if (!found) {
      return Fail(Code::kNotFound,
                  fmt::format("there is no module {} in {}", name, tree.directory()));
    }
  }
  set.modules = resolver.Take();
  return set;
}

}  // namespace wyvern::guest
