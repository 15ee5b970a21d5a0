// container/host_container.h — what a container has on the host: mounted root, exports, disks of the guest, cgroup, anchor. Made in order,
//                              undone in reverse.
// Root:    one that is a block device or an image file becomes a disk of the guest (storage.block), if nobody on the host has it; <bundle>/rootfs
//          is empty then, for hooks and in the anchor. Any other is mounted there and shared.
// Network: the sandbox's, as in a pod, where the spec names it or is the one that the sandbox was made of; any other that asks for a new one gets
//          that, as from runc: in the guest by crun, and an empty one on the host for the anchor to show. A path to another is refused.
// Pod:     the container that only stands for one (a pause) has an anchor and its cgroup, and nothing in the guest; the others have what the pod
//          shares (pod_namespaces.h).
// State:   each thing is in the state file before it exists.
// Threads: Prepare and Release are not called at the same time for one container; EndAnchor and ShowMemoryLimit are anybody's after Prepare;
//          different containers are independent.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/check.h"
#include "cgroup/cgroup.h"
#include "config/config.h"
#include "container/anchor_process.h"
#include "container/disks.h"
#include "container/pod_namespaces.h"
#include "container/shared_exports.h"
#include "hypervisor/machine.h"
#include "oci/spec.h"
#include "state/state.h"
#include "storage/rootfs.h"
#include "volume/host_sockets.h"
#include "volume/sandbox_volumes.h"

namespace wyvern::runtime {

// What the containers of a sandbox share; outlives them.
struct HostEnvironment {
  Machine* machine = nullptr;
  AgentClient* agent = nullptr;
  StateStore* state = nullptr;
  const Config* config = nullptr;
  FdRef network_namespace{-1};
  std::string sandbox_bundle;                 // whose spec says what the network is
  std::vector<std::string> disk_filesystems;  // that the guest mounts
  const PodNamespaces* pod = nullptr;         // null: the sandbox is no pod
  std::string shm_source = {};                // of the pod's /dev/shm
  const std::map<std::string, std::string>* pod_files = nullptr;  // of Facts; null: as `pod`
  const IdMap* pod_ids = nullptr;                                 // the same
  SandboxVolumes* volumes = nullptr;
  HostSockets* sockets = nullptr;
  SharedExports* exports = nullptr;
  FdRef anchor{-1};  // the program, O_PATH
  const std::vector<oci::GuestHook>* guest_hooks = nullptr;
};

class HostContainer {
 public:
  struct Options {
    std::string id;
    std::string bundle;
    std::vector<MountEntry> rootfs;
    uint32_t index = 0;  // unique in the sandbox's life
    bool terminal = false;
    bool stands_for_pod = false;
  };

  // On error nothing is left.
  static Result<std::unique_ptr<HostContainer>> Prepare(const HostEnvironment& environment,
                                                        Options options);
  ~HostContainer();
  HostContainer(const HostContainer&) = delete;
  HostContainer& operator=(const HostContainer&) = delete;

  const oci::Facts& facts() const { return spec_.facts(); }

  const std::string& guest_config() const { return guest_.config_json; }

  const std::string& bundle() const { return options_.bundle; }

  // Those that go with it: what other containers have, too, stays theirs. From here on it shares none.
  const std::vector<std::string>& TakeExportNames();

  // The host's block devices that it has, and their numbers in the guest.
  const std::map<oci::DeviceNumber, oci::DeviceNumber>& devices() const { return devices_; }

  // Directories of the host that stand for a disk here (volume/direct_volumes.h), and its name.
  const std::map<std::string, std::string>& direct_volumes() const { return direct_volumes_; }

  const AnchorProcess& anchor() const {
    WV_CHECK(anchor_.has_value());  // of what Prepare returned
    return *anchor_;
  }

  // When the container has ended: its pid is nobody's any more, as one that waited for it would find. The cgroup stays. Idempotent.
  void EndAnchor();

  // Of memory and swap, in the container's own cgroup on the host, where those look who know the container by its pid: only the anchor is in it,
  // so no limit is below what that needs. Where there is no memory controller nothing is done.
  Result<> ShowMemoryLimit(const Limits& limits);

  // Ends the anchor (if it has not), detaches exports, unmounts, removes the cgroup and the record. Goes on after a failure and returns the
  // first one; what failed is tried again by the next call. kGone: exports and disks are gone with their processes. Idempotent.
  Result<> Release(GuestState guest);

 private:
  HostContainer(const HostEnvironment& environment, Options options, oci::Spec spec);

  Result<> Record(const std::string& step, const std::function<void(ContainerRecord&)>& change);
  Result<> Make();
  Result<> CheckNetwork() const;
  bool HasOwnNetwork() const;
  Result<> ShareInPod();
  Result<> Translate();
  Result<> MakeRoot();
  Result<> MountRoot();
  Result<> AttachDevices();
  Result<> AttachVolumes();
  Result<> TakeVolumes();
  Result<std::optional<oci::GuestSource>> TakeDirect(const oci::Export& item);
  Result<> ShareRoot();
  Result<std::string> ShareVolume(const oci::Export& item);
  Result<> ShareTree(const std::string& name, FdRef tree, const ExportPolicy& policy);
  Result<> StartAnchor();
  std::string RootPath() const;

  const HostEnvironment environment_;
  const Options options_;
  const oci::Spec spec_;
  PodNamespaces::InGuest shared_;
  oci::GuestSpec guest_;
  ContainerDisks disks_;
  std::map<oci::DeviceNumber, oci::DeviceNumber> devices_;
  std::map<std::string, oci::GuestSource> guest_sources_;
  std::map<std::string, std::string> direct_volumes_;
  bool root_on_disk_ = false;
  bool mounted_ = false;
  bool recorded_ = false;
  std::vector<std::string> exports_;  // to be detached
  std::vector<std::string> shared_exports_;
  std::optional<Cgroup> cgroup_;
  std::mutex anchor_mu_;  // one ends it, the others wait until it has ended
  std::optional<AnchorProcess> anchor_;
};

}  // namespace wyvern::runtime
