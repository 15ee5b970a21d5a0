// container/host_container.h — what a container has on the host: mounted root, exports, cgroup, anchor. Made in order, undone in reverse.
// State:   each thing is in the state file before it exists.
// Threads: Prepare and Release are not called at the same time for one container; different containers are independent.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/check.h"
#include "cgroup/cgroup.h"
#include "config/config.h"
#include "container/anchor_process.h"
#include "hypervisor/machine.h"
#include "oci/spec.h"
#include "state/state.h"
#include "storage/rootfs.h"

namespace wyvern::runtime {

// What the containers of a sandbox share; outlives them.
struct HostEnvironment {
  Machine* machine = nullptr;
  StateStore* state = nullptr;
  const Config* config = nullptr;
  FdRef network_namespace{-1};
};

class HostContainer {
 public:
  struct Options {
    std::string id;
    std::string bundle;
    std::vector<MountEntry> rootfs;
    uint32_t index = 0;  // unique in the sandbox's life
    bool terminal = false;
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

  const std::vector<std::string>& export_names() const { return exports_; }

  const AnchorProcess& anchor() const {
    WV_CHECK(anchor_.has_value());  // of what Prepare returned
    return *anchor_;
  }

  // Ends the anchor (if it has not), detaches exports, unmounts, removes the cgroup and the record. Goes on after a failure and returns the
  // first one; what failed is tried again by the next call. `machine_alive` false: the exports are gone with the file server. Idempotent.
  Result<> Release(bool machine_alive);

 private:
  HostContainer(const HostEnvironment& environment, Options options, oci::Spec spec)
      : environment_(environment), options_(std::move(options)), spec_(std::move(spec)) {}

  Result<> Record(const std::string& step, const std::function<void(ContainerRecord&)>& change);
  Result<> Make();
  Result<> MountRoot();
  Result<> Share();
  Result<> ShareTree(const std::string& name, FdRef tree, const ExportPolicy& policy);
  Result<> StartAnchor();
  std::string RootPath() const;

  const HostEnvironment environment_;
  const Options options_;
  const oci::Spec spec_;
  oci::GuestSpec guest_;
  bool mounted_ = false;
  bool recorded_ = false;
  std::vector<std::string> exports_;
  std::optional<Cgroup> cgroup_;
  std::optional<AnchorProcess> anchor_;
};

}  // namespace wyvern::runtime
