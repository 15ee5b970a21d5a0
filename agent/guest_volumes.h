// agent/guest_volumes.h — file systems in the guest's memory that containers mount: what AddVolume, SetVolumeFiles and RemoveVolume of agent.proto
//                         do.
// Errors:  those of agent.proto.
// Threads: VolumeTable: one at a time, any thread. GuestVolumes: the loop's; the work is on a lane's, since the kernel may have to find memory for
//          it, and write a file of a mebibyte.
// Trust:   what containers do in volumes: see volume_files.h. A part of a volume is looked up in it by openat2(RESOLVE_BENEATH).
#pragma once

#include <map>
#include <set>
#include <string>

#include "agent/lane.h"
#include "agent/policy.h"
#include "agent/volume_request.h"
#include "proto/agent.pb.h"
#include "ttrpc/server.h"

namespace wyvern::agent {

struct VolumeOptions {
  std::string directory = "/run/wyvern/volumes";
  std::string huge_pages = "/sys/kernel/mm/hugepages";
};

class VolumeTable {
 public:
  VolumeTable(VolumeOptions options, const Policy& policy)
      : options_(std::move(options)), policy_(policy) {}

  ~VolumeTable() = default;
  VolumeTable(const VolumeTable&) = delete;
  VolumeTable& operator=(const VolumeTable&) = delete;

  Result<> Add(const WantedVolume& wanted);
  Result<> Replace(const VolumeContent& content);
  Result<> Remove(const std::string& name);

 private:
  Result<> Mount(const WantedVolume& wanted, const std::string& target);
  Result<> MountPart(const WantedPart& part, const VolumeOwner& owner, const std::string& target);
  Result<> CheckHugePages(const WantedHugePages& wanted) const;

  const VolumeOptions options_;
  const Policy& policy_;
  std::set<std::string> names_;
  std::map<std::string, bool> of_files_;  // those of names_ that are for files: they have some
};

class GuestVolumes {
 public:
  // `policy` outlives it.
  GuestVolumes(EventLoop& loop, VolumeOptions options, const Policy& policy)
      : table_(std::move(options), policy), lane_(loop, "volumes") {}

  ~GuestVolumes() = default;
  GuestVolumes(const GuestVolumes&) = delete;
  GuestVolumes& operator=(const GuestVolumes&) = delete;

  // Its handlers; this outlives the server.
  void Register(ttrpc::Server& server, const char* service);

 private:
  VolumeTable table_;  // the lane's thread only
  // Last: its thread ends before what its jobs refer to.
  Lane lane_;
};

}  // namespace wyvern::agent
