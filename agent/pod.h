// agent/pod.h — what the containers of a pod share, beside the guest's own network, host name and System V IPC: /dev/shm, and, where they ask
//               for it, processes. Nothing of the pod's pause image runs: a process of ours holds the shared pid namespace.
// Shape:   below `directory`: shm, a tmpfs; pid, the shared pid namespace; pids/<container>, that of a container whose init lives. The latter two
//          are links into /proc, as are user and ipc of a pod with mapped ids, which come with pid; configurations of containers name them in linux.namespaces and as sources of bind mounts.
// Life:    Create once, before there are containers; the shared pid namespace from the first SharePids on. It lives with its first process, which
//          reaps what containers leave behind, and which no container can kill, trace, or reach the guest's files through.
// Errors:  FAILED_PRECONDITION without Create; INVALID_ARGUMENT for ids that cannot be mapped.
// Threads: the loop's thread. Outlives the callbacks of `crun` and `reaper`.
#pragma once

#include <sys/types.h>

#include <functional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/user_namespace.h"
#include "proto/agent.pb.h"

namespace wyvern::agent {

class Crun;
class Reaper;

class Pod {
 public:
  using Done = std::function<void(Result<>)>;

  Pod(Crun& crun, Reaper& reaper, std::string directory);
  ~Pod() = default;
  Pod(const Pod&) = delete;
  Pod& operator=(const Pod&) = delete;

  Result<> Create(const v1::Pod& request);
  // `directory`/pid is there when `done` is called; the same again does nothing, unless its first process has died.
  void SharePids(Done done);
  // `init` is the first process of container `id`, and: it has ended. Nothing without Create.
  void Add(const std::string& id, pid_t init);
  void Remove(const std::string& id);
  // The first process of the shared pid namespace, and with it all others; for the end of the sandbox.
  void KillAll();

 private:
  Result<> Started(const std::string& pid);

  Crun& crun_;
  Reaper& reaper_;
  const std::string directory_;
  bool created_ = false;
  IdMap ids_;  // empty: the guest's own users
  pid_t init_ = 0;
  std::vector<Done> waiting_;  // not empty: it is being started
};

}  // namespace wyvern::agent
