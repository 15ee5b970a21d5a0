#include "container/pod_namespaces.h"

#include <fmt/format.h>

namespace wyvern::runtime {
namespace {

// agent.proto, Pod.
constexpr char kSharedPids[] = "/run/wyvern/pod/pid";
constexpr char kPidsOf[] = "/run/wyvern/pod/pids/";
constexpr char kUsers[] = "/run/wyvern/pod/user";
constexpr char kIpcOfUsers[] = "/run/wyvern/pod/ipc";

bool IsShared(const std::string& type) {
  return type == "pid" || type == "ipc" || type == "uts" || type == "user";
}

}  // namespace

void PodNamespaces::Add(pid_t anchor, const std::string& id, bool for_pod) {
  const std::lock_guard lock(mu_);
  owners_[anchor] = {id, for_pod};
}

void PodNamespaces::Remove(pid_t anchor) {
  const std::lock_guard lock(mu_);
  owners_.erase(anchor);
}

std::optional<PodNamespaces::Owner> PodNamespaces::OwnerOf(const std::string& type,
                                                           const std::string& path) const {
  const std::lock_guard lock(mu_);
  for (const auto& [pid, owner] : owners_) {
    if (path == fmt::format("/proc/{}/ns/{}", pid, type)) {
      return owner;
    }
  }
  return std::nullopt;
}

Result<PodNamespaces::InGuest> PodNamespaces::Find(
    const std::map<std::string, std::string>& paths) const {
  InGuest out;
  for (const auto& [type, path] : paths) {
    if (!IsShared(type)) {
      continue;  // a new one, or refused
    }
    const auto owner = OwnerOf(type, path);
    // Other containers have ipc and uts of the pod, or would have to be asked whether they have.
    if (!owner.has_value() || (!owner->for_pod && type != "pid")) {
      return Fail(
          Code::kInvalidArgument,
          fmt::format("linux.namespaces: {} is no {} namespace of this pod: its containers are in "
                      "one virtual machine, and share with each other only",
                      path, type));
    }
    if (type == "user") {
      out.namespaces[type] = kUsers;
      out.shared_pids = out.shared_users = true;
    } else if (type != "pid") {
      out.namespaces[type] = "";
    } else if (owner->for_pod) {
      out.namespaces[type] = kSharedPids;
      out.shared_pids = true;
    } else {
      out.namespaces[type] = kPidsOf + owner->id;
    }
  }
  // Of the guest's own System V IPC its root alone is the owner.
  if (const auto ipc = out.namespaces.find("ipc");
      out.shared_users && ipc != out.namespaces.end()) {
    ipc->second = kIpcOfUsers;
  }
  return out;
}

}  // namespace wyvern::runtime
