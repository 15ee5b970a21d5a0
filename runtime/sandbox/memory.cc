// The sandbox's memory on the host: what backs it, what comes back, and what becomes of a guest that has none left.
#include <algorithm>
#include <chrono>

#include "base/log.h"
#include "sandbox/host_memory.h"
#include "sandbox/sandbox_impl.h"

namespace wyvern::runtime {

agent_pb::CacheReclaim GuestReclaim(Config::Memory::Reclaim reclaim) {
  switch (reclaim) {
    case Config::Memory::Reclaim::kNever:
      break;
    case Config::Memory::Reclaim::kLimited:
      return agent_pb::CACHE_RECLAIM_LIMITED;
    case Config::Memory::Reclaim::kAlways:
      return agent_pb::CACHE_RECLAIM_ALWAYS;
  }
  return agent_pb::CACHE_RECLAIM_NEVER;
}

// The guest may say what it likes as often as it likes: only of what exists, and one piece of news about a container at a time.
void SandboxImpl::TellOom(const std::string& id) {
  ContainerPtr container;
  {
    const std::lock_guard lock(mu_);
    const auto it = containers_.find(id);
    if (it == containers_.end() || std::exchange(it->second->oom, true)) {
      return;
    }
    container = it->second;
  }
  pool_->Run([this, container] {
    std::function<void(std::string)> callback;
    {
      const std::lock_guard lock(mu_);
      callback = on_oom_;
    }
    events_.Add(observe::EventKind::kOom, container->id,
                "the guest killed a process for want of memory");
    if (callback) {
      callback(container->id);
    }
    const std::lock_guard lock(mu_);
    container->oom = false;
  });
}

// The container's program was killed all the same, so who asked for it is told the same. What else there is to say is for who gave the guest
// its memory.
void SandboxImpl::TellGuestOom(const std::string& id) {
  bool known = false;
  {
    const std::lock_guard lock(mu_);
    known = containers_.contains(id);
  }
  if (known) {
    WV_WARN_LIMITED(
        "sandbox {}: the guest as a whole is out of memory, and its kernel has killed in container "
        "{}, which is within its limit: raise sandbox.memory, or give containers limits",
        options_.id, id);
  }
  TellOom(id);
}

// What the file server reads for the guest stays in the host's page cache, and is charged to the sandbox as the guest's own copy is.
void SandboxImpl::WatchHostCache() {
  if (config_.memory.reclaim == Config::Memory::Reclaim::kNever || !cgroup_.has_value()) {
    return;
  }
  if (!host_cache_.has_value()) {
    host_cache_.emplace(cgroup_->directory());
  }
  loop_->loop().Post([this] {
    loop_->loop().After(CachePace::kPeriod, [this] {
      const std::lock_guard lock(mu_);  // Shutdown comes before the pool goes, and takes it
      if (!stopping_ && !death_.has_value()) {
        pool_->Run([this] { HostCacheRound(); });
      }
    });
  });
}

bool SandboxImpl::WantsHostCache() {
  if (config_.memory.reclaim == Config::Memory::Reclaim::kAlways ||
      facts_.limits.memory_limit.value_or(0) > 0) {
    return true;
  }
  const std::lock_guard lock(mu_);
  return std::any_of(containers_.begin(), containers_.end(), [](const auto& entry) {
    const Container& container = *entry.second;
    return container.created && container.limits.memory_limit.value_or(0) > 0;
  });
}

void SandboxImpl::HostCacheRound() {
  if (WantsHostCache()) {
    const auto taken = host_cache_->Round(std::chrono::steady_clock::now(),
                                          [this] { return !CheckAlive().has_value(); });
    if (!taken.has_value()) {
      // A host without the memory controller, or one that cannot: nothing changes about that.
      WV_INFO("sandbox {}: page cache on the host stays: {}", options_.id, taken.error().message());
      return;
    }
    if (*taken > 0) {
      WV_DEBUG("sandbox {}: up to {} KiB of idle page cache taken on the host", options_.id,
               *taken >> 10U);
    }
  }
  WatchHostCache();
}

}  // namespace wyvern::runtime
