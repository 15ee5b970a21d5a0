// What a fresh process undoes after a sandbox whose process is gone.
#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>

#include "base/log.h"
#include "cgroup/cgroup.h"
#include "config/config.h"
#include "container/hooks.h"
#include "network/connect.h"
#include "network/netns.h"
#include "oci/spec.h"
#include "sandbox/cleanup.h"
#include "sandbox/sandbox.h"
#include "state/state.h"
#include "storage/rootfs.h"

namespace wyvern::runtime {
namespace {

// Goes on after failures; the first is the answer.
class Collector {
 public:
  void Keep(Result<> result) {
    if (!result.has_value()) {
      WV_WARN("clean-up: {}", result.error().message());
      if (first_.has_value()) {
        first_ = std::move(result);
      }
    }
  }

  bool ok() const { return first_.has_value(); }

  Result<> Take() { return std::move(first_); }

 private:
  Result<> first_;
};

// Only what is below the container's own bundle, wherever symlinks lead: the file may be damaged.
void UnmountAll(const ContainerRecord& container, Collector& collector) {
  if (!container.bundle.starts_with('/')) {
    return;
  }
  constexpr std::string_view kName = "rootfs";
  auto inside = ResolveParent(fmt::format("{}/{}", container.bundle, kName));
  if (!inside.has_value()) {
    if (inside.error().code() != Code::kNotFound) {  // else nothing is mounted below it
      collector.Keep(tl::unexpected(std::move(inside).error()));
    }
    return;
  }
  inside->resize(inside->size() - kName.size());
  for (auto it = container.mounts.rbegin(); it != container.mounts.rend(); ++it) {
    const auto point = ResolveParent(*it);
    if (point.has_value() && point->starts_with(*inside)) {
      collector.Keep(UnmountTree(*point));
    }
  }
}

void CleanContainer(const std::string& cgroup_root, const ContainerRecord& container,
                    Collector& collector) {
  for (const ProcessRecord& process : container.processes) {
    collector.Keep(KillProcess(process));
  }
  UnmountAll(container, collector);
  if (!container.cgroup.empty()) {
    collector.Keep(RemoveCgroup(cgroup_root, container.cgroup));
  }
}

// What its create hooks made, nobody else undoes. Its spec is the client's, as at Create.
void RunPoststop(const std::string& id, const ContainerRecord& container) {
  if (!container.hooked) {
    return;
  }
  const auto spec = ReadFile(container.bundle + "/config.json", oci::kMaxConfigBytes)
                        .and_then([](const std::string& text) { return oci::Spec::Parse(text); });
  if (!spec.has_value()) {
    WV_WARN("clean-up: the poststop hooks of {} are not run: {}", id, spec.error().message());
    return;
  }
  HookState state;
  state.id = id;
  state.status = "stopped";
  state.bundle = container.bundle;
  state.annotations = spec->facts().annotations;
  RunPoststopHooks(spec->facts().hooks.poststop, state, {}, kMaxHookTimeout);
}

void CleanContainers(const std::string& cgroup_root, const SandboxRecord& record,
                     Collector& collector) {
  for (const auto& [id, container] : record.containers) {
    CleanContainer(cgroup_root, container, collector);
  }
}

void CleanNetwork(const NetworkRecord& network, Collector& collector) {
  if (network.path.empty() || network.interfaces.empty()) {
    return;
  }
  auto there = OpenNetworkNamespace(network.path);
  if (!there.has_value()) {
    if (there.error().code() != Code::kNotFound) {  // else all that was in it is gone
      collector.Keep(tl::unexpected(std::move(there).error()));
    }
    return;
  }
  for (const int index : network.interfaces) {
    collector.Keep(DisconnectInterface(*there, index));
  }
}

void CleanBundle(const std::string& bundle, Collector& collector) {
  std::error_code error;
  if (bundle.starts_with('/') && std::filesystem::is_directory(bundle + "/rootfs", error)) {
    collector.Keep(UnmountTree(bundle + "/rootfs"));
  }
}

Result<> CleanSandbox(const Places& places, const std::string& directory,
                      const SandboxRecord& record) {
  Collector collector;
  // The process that serves it first, so that it makes nothing new; unless that is us.
  if (record.owner.pid != getpid()) {
    collector.Keep(KillProcess(record.owner));
  }
  for (const ProcessRecord& process : record.processes) {
    collector.Keep(KillProcess(process));
  }
  CleanNetwork(record.network, collector);
  CleanContainers(places.cgroup_root, record, collector);
  for (auto it = record.cgroups.rbegin(); it != record.cgroups.rend(); ++it) {
    collector.Keep(RemoveCgroup(places.cgroup_root, *it));
  }
  if (collector.ok()) {
    collector.Keep(RemoveStateDirectory(directory));
    // At the end, and once: whoever asked for this may have lost patience meanwhile, a hook goes on by itself then.
    for (const auto& [id, container] : record.containers) {
      RunPoststop(id, container);
    }
  }
  return collector.Take();
}

// A container of a sandbox that goes by another id: nothing while that sandbox lives, it looks after its own.
Result<> CleanForeignContainer(const Places& places, const std::string& ns, const std::string& id) {
  Collector collector;
  std::error_code error;
  for (std::filesystem::directory_iterator it(places.state_dir, error), end; !error && it != end;
       it.increment(error)) {
    auto record = LoadState(it->path().string());
    if (!record.has_value() || record->ns != ns || !record->containers.contains(id) ||
        IsAlive(record->owner)) {
      continue;
    }
    CleanContainer(places.cgroup_root, record->containers.at(id), collector);
  }
  return collector.Take();
}

bool IsServedElsewhere(const Places& places, const std::string& ns, const std::string& id) {
  std::error_code error;
  for (std::filesystem::directory_iterator it(places.state_dir, error), end; !error && it != end;
       it.increment(error)) {
    auto record = LoadState(it->path().string());
    if (record.has_value() && record->ns == ns && record->containers.contains(id) &&
        IsAlive(record->owner)) {
      return true;
    }
  }
  return false;
}

}  // namespace

Result<> CleanRecordedContainers(const std::string& cgroup_root, const SandboxRecord& record) {
  Collector collector;
  CleanContainers(cgroup_root, record, collector);
  return collector.Take();
}

Result<> CleanUpIn(const Places& places, const std::string& ns, const std::string& id,
                   const std::string& bundle) {
  const std::string directory = StateDirectory(places.state_dir, ns, id);
  auto record = LoadState(directory);
  if (record.has_value() && record->ns == ns && record->id == id) {
    WV_TRY_VOID_CONTEXT(CleanSandbox(places, directory, *record), "cleaning up sandbox " + id);
  } else if (!record.has_value() && record.error().code() == Code::kFailedPrecondition) {
    return tl::unexpected(std::move(record).error().WithContext(directory));
  } else if (!record.has_value() && record.error().code() == Code::kDataLoss) {
    WV_ERROR("{}: {}: what it named may be left behind", directory, record.error().message());
    WV_TRY_VOID(RemoveStateDirectory(directory));
  } else if (IsServedElsewhere(places, ns, id)) {
    return {};
  } else {
    WV_TRY_VOID(
        RemoveStateDirectory(directory));  // an interrupted start: a directory without a file
    WV_TRY_VOID(CleanForeignContainer(places, ns, id));
  }
  Collector collector;
  CleanBundle(bundle, collector);
  return collector.Take();
}

Result<> CleanUp(const std::string& ns, const std::string& id, const std::string& bundle) {
  Places places;
  if (auto config = LoadConfig({}); config.has_value()) {
    places = {(*config)->state_dir, (*config)->cgroup_root};
  } else {
    const Config builtin = BuiltInConfig();
    places = {builtin.state_dir, builtin.cgroup_root};
  }
  return CleanUpIn(places, ns, id, bundle);
}

}  // namespace wyvern::runtime
