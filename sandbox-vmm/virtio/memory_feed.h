// virtio/memory_feed.h — the guest's memory as it is now, for queues that run: they take what is
// published here with their next chain, so that memory is added to them without a stop. Chains that
// are in flight keep the memory that they were popped with.
// Threads: any.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>

#include "mem/guest_memory.h"

namespace wyvern::virtio {

class MemoryFeed {
 public:
  explicit MemoryFeed(std::shared_ptr<const mem::GuestMemory> memory)
      : memory_(std::move(memory)) {}

  void Publish(std::shared_ptr<const mem::GuestMemory> memory) {
    const std::lock_guard lock(mu_);
    memory_.swap(memory);
    // Whoever sees the guest use what is new sees this, too: it is told afterwards.
    version_.fetch_add(1, std::memory_order_release);
  }

  std::shared_ptr<const mem::GuestMemory> memory() const {
    const std::lock_guard lock(mu_);
    return memory_;
  }

  // Counts what was published; may be behind a memory() that is asked for later, never ahead of it.
  uint32_t version() const { return version_.load(std::memory_order_acquire); }

 private:
  mutable std::mutex mu_;
  std::shared_ptr<const mem::GuestMemory> memory_;  // guarded by mu_
  std::atomic<uint32_t> version_{0};
};

}  // namespace wyvern::virtio
