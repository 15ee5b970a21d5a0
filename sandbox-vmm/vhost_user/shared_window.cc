#include "vhost_user/shared_window.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "base/log.h"

namespace wyvern::vhost_user {

namespace {

constexpr uint64_t kWindowPage = 4096;

}  // namespace

void SharedMappings::SetRegions(std::vector<virtio::SharedMemoryRegion> regions) {
  const std::lock_guard lock(mu_);
  regions_ = std::move(regions);
}

Result<> SharedMappings::CheckRange(const ShmemMapping& mapping) const {
  const auto region = std::ranges::find(regions_, mapping.shmid, &virtio::SharedMemoryRegion::id);
  const uint64_t size = region == regions_.end() ? 0 : region->length;
  if (mapping.length == 0 || mapping.length > size || mapping.shm_offset > size - mapping.length ||
      (mapping.length | mapping.shm_offset | mapping.fd_offset) % kWindowPage != 0 ||
      mapping.fd_offset > static_cast<uint64_t>(INT64_MAX) - mapping.length ||
      (mapping.flags & ~kShmemWritable) != 0) {
    return Fail(Code::kInvalidArgument,
                fmt::format("{} bytes at {:#x} of shared-memory region {} (which has {})",
                            mapping.length, mapping.shm_offset, mapping.shmid, size));
  }
  return {};
}

bool SharedMappings::IsFree(const ShmemMapping& mapping) const {
  const auto next = mappings_.lower_bound(Key{mapping.shmid, mapping.shm_offset});
  if (next != mappings_.end() && next->first.first == mapping.shmid &&
      next->first.second < mapping.shm_offset + mapping.length) {
    return false;
  }
  if (next == mappings_.begin()) {
    return true;
  }
  const auto& [key, length] = *std::prev(next);
  return key.first != mapping.shmid || key.second + length <= mapping.shm_offset;
}

Result<> SharedMappings::Map(const ShmemMapping& mapping, UniqueFd fd) {
  const std::lock_guard lock(mu_);
  WV_TRY_VOID(CheckRange(mapping));
  if (!IsFree(mapping)) {
    return Fail(Code::kInvalidArgument,
                fmt::format("something is mapped at {:#x} already", mapping.shm_offset));
  }
  if (mappings_.size() >= kMaxMappings) {
    return Fail(Code::kResourceExhausted, "too many mappings of shared memory");
  }
  WV_TRY_VOID(window_->Map(mapping.shmid, mapping.shm_offset, mapping.length, std::move(fd),
                           mapping.fd_offset, (mapping.flags & kShmemWritable) != 0));
  mappings_.emplace(Key{mapping.shmid, mapping.shm_offset}, mapping.length);
  return {};
}

Result<> SharedMappings::Unmap(const ShmemMapping& mapping) {
  const std::lock_guard lock(mu_);
  const auto found = mappings_.find(Key{mapping.shmid, mapping.shm_offset});
  if (found == mappings_.end() || found->second != mapping.length) {
    return Fail(Code::kInvalidArgument, fmt::format("{} bytes at {:#x} were not mapped",
                                                    mapping.length, mapping.shm_offset));
  }
  WV_TRY_VOID(window_->Unmap(mapping.shmid, mapping.shm_offset, mapping.length));
  mappings_.erase(found);
  return {};
}

void SharedMappings::UnmapAll() {
  const std::lock_guard lock(mu_);
  for (const auto& [key, length] : mappings_) {
    if (auto done = window_->Unmap(key.first, key.second, length); !done) {
      WV_WARN_LIMITED("unmapping shared memory: {}", done.error().message());
    }
  }
  mappings_.clear();
}

}  // namespace wyvern::vhost_user
