// container/pod_namespaces.h — what the paths in linux.namespaces mean in a pod.
// Shape:   CRI names the namespaces of a pod, and of other containers of it, by the pids that we gave it: "/proc/<pid>/ns/ipc". These are
//          anchors. Their own namespaces but for the network are the host's, so such a path is never followed, only compared.
// Errors:  INVALID_ARGUMENT naming the type, for a path that is no namespace of this pod.
// Trust:   paths come from config.json.
// Threads: any.
#pragma once

#include <sys/types.h>

#include <map>
#include <mutex>
#include <optional>
#include <string>

#include "base/error.h"

namespace wyvern::runtime {

class PodNamespaces {
 public:
  // The anchor of container `id`; `for_pod`: of the one that stands for the pod.
  void Add(pid_t anchor, const std::string& id, bool for_pod);
  // Before that pid can be another's.
  void Remove(pid_t anchor);

  struct InGuest {
    std::map<std::string, std::string> namespaces;  // for oci::TranslateOptions
    bool shared_pids = false;                       // AgentClient::SharePids has to come first
    bool shared_users = false;  // so that it is there; the pod's ids are the container's
  };

  // `paths`: of oci::Facts, by type.
  Result<InGuest> Find(const std::map<std::string, std::string>& paths) const;

 private:
  struct Owner {
    std::string id;
    bool for_pod = false;
  };

  std::optional<Owner> OwnerOf(const std::string& type, const std::string& path) const;

  mutable std::mutex mu_;
  std::map<pid_t, Owner> owners_;  // guarded by mu_
};

}  // namespace wyvern::runtime
