// sandbox.bind_mounts: what of the host a guest sees beside its containers.
#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "sandbox/sandbox_impl.h"
#include "storage/exports.h"

namespace wyvern::runtime {
namespace {

constexpr size_t kMaxName = 58;  // of 63 of an export

// Of letters that an export's name has.
std::string NameOf(const std::string& path) {
  const size_t end = path.find_last_not_of('/') + 1;
  const size_t slash = path.substr(0, end).rfind('/');
  std::string name = path.substr(slash + 1, end - slash - 1).substr(0, kMaxName);
  std::ranges::transform(name, name.begin(), [](unsigned char c) {
    const bool upper = c >= 'A' && c <= 'Z';
    const bool fits = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
    return static_cast<char>(upper ? c + ('a' - 'A') : (fits ? c : '-'));
  });
  return "host-" + name;
}

}  // namespace

// Exports end with the file server: nothing of them is to be undone.
Result<> SandboxImpl::ShareBindMounts() {
  std::set<std::string> names;
  for (const std::string& path : config_.sandbox.bind_mounts) {
    const std::string name = NameOf(path);
    if (!names.insert(name).second) {
      return Fail(
          Code::kInvalidArgument,
          fmt::format("sandbox.bind_mounts: {}: another one is {} in the guest", path, name));
    }
    TreeOptions options;
    options.recursive = true;
    options.read_only = true;
    options.for_guest = true;
    WV_TRY_CONTEXT(const UniqueFd tree, CloneTree(path, options), "sandbox.bind_mounts");
    WV_TRY_VOID_CONTEXT(machine_->AttachExport(name, tree, {config_.share.cache_volume, true}),
                        "sandbox.bind_mounts: " + path);
  }
  return {};
}

}  // namespace wyvern::runtime
