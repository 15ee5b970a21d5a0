// vhost_user/shared_window.h — the front-end's side of SHMEM_MAP: where a back-end's files become
// visible to the guest (virtio-fs: the DAX window).
// Spec:    VIRTIO 1.4 §2.10; vhost-user VHOST_USER_BACKEND_SHMEM_MAP.
// Errors:  INVALID_ARGUMENT: a range outside its region, not of whole pages, mapped already or (to
//          unmap) not mapped as such. RESOURCE_EXHAUSTED: too many mappings.
// Threads: any.
// Trust:   every number and descriptor is the back-end's.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "vhost_user/messages.h"
#include "virtio/device.h"

namespace wyvern::vhost_user {

// What the machine does about it; ranges are checked and do not overlap. No call of the device's
// interface may be made from here.
class SharedMemoryWindow {
 public:
  virtual ~SharedMemoryWindow() = default;
  // [offset, offset + length) of region `id` shows `fd` from `fd_offset` on.
  virtual Result<> Map(uint8_t id, uint64_t offset, uint64_t length, UniqueFd fd,
                       uint64_t fd_offset, bool writable) = 0;
  virtual Result<> Unmap(uint8_t id, uint64_t offset, uint64_t length) = 0;
};

class SharedMappings {
 public:
  // What a window of 16 GiB takes in ranges of 2 MiB, as Linux' virtio-fs asks for. A process has
  // 65,530 mappings (vm.max_map_count), and one of ours costs it two at most.
  static constexpr size_t kMaxMappings = 1 << 13;

  explicit SharedMappings(std::shared_ptr<SharedMemoryWindow> window)
      : window_(std::move(window)) {}

  // What the back-end has. Precondition: nothing is mapped.
  void SetRegions(std::vector<virtio::SharedMemoryRegion> regions);

  Result<> Map(const ShmemMapping& mapping, UniqueFd fd);
  Result<> Unmap(const ShmemMapping& mapping);
  // The device was reset, or its back-end is gone.
  void UnmapAll();

 private:
  using Key = std::pair<uint8_t, uint64_t>;  // region, offset

  Result<> CheckRange(const ShmemMapping& mapping) const;
  bool IsFree(const ShmemMapping& mapping) const;

  const std::shared_ptr<SharedMemoryWindow> window_;
  std::mutex mu_;
  std::vector<virtio::SharedMemoryRegion> regions_;  // guarded by mu_
  std::map<Key, uint64_t> mappings_;                 // lengths; guarded by mu_
};

}  // namespace wyvern::vhost_user
