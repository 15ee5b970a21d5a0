// agent/block_storage.h — the disks that containers have: what AddDisk, RemoveDisk and DiskUsage of agent.proto do.
// Life:    Add → (in use by a container) → Remove. A Remove that comes while the disk is being added waits for that.
// Errors:  those of agent.proto.
// Threads: the loop's thread; callbacks come once each, also from within the call. Nothing here blocks: block_disk.h runs in a program of its own.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "agent/crun.h"
#include "base/error.h"
#include "proto/agent.pb.h"

namespace wyvern::agent {

struct BlockStorageOptions {
  std::string sys = "/sys";
  std::string mounts = "/run/wyvern/disks";  // one directory each
};

class BlockStorage {
 public:
  using AddDone = std::function<void(Result<v1::AddDiskResponse>)>;
  using UsageDone = std::function<void(Result<v1::DiskUsageResponse>)>;
  using RemoveDone = std::function<void(Result<v1::RemoveDiskResponse>)>;

  // `crun` outlives it, and it outlives what it has begun.
  BlockStorage(Crun& crun, BlockStorageOptions options)
      : crun_(crun), options_(std::move(options)) {}

  ~BlockStorage() = default;
  BlockStorage(const BlockStorage&) = delete;
  BlockStorage& operator=(const BlockStorage&) = delete;

  void Add(const v1::AddDiskRequest& request, AddDone done);
  void Remove(const std::string& serial, RemoveDone done);
  void Usage(const v1::DiskUsageRequest& request, UsageDone done);
  // Mount points, for syncfs.
  std::vector<std::string> Mounted() const;

 private:
  enum class State : uint8_t { kAdding, kReady, kRemoving };

  struct Disk {
    State state = State::kAdding;
    std::string target;  // empty: not mounted
    std::string node;
    uint32_t major = 0;
    uint32_t minor = 0;
    std::vector<RemoveDone> removals;
  };

  Result<> Check(const v1::AddDiskRequest& request) const;
  Result<v1::AddDiskResponse> Added(const std::string& serial, Result<std::string> answer);
  void Leave(const std::string& serial);
  void Left(const std::string& serial, Result<std::string> answer);

  Crun& crun_;
  const BlockStorageOptions options_;
  std::map<std::string, Disk> disks_;
};

}  // namespace wyvern::agent
