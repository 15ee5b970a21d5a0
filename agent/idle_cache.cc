#include "agent/idle_cache.h"

#include <poll.h>

#include "base/fd.h"
#include "base/log.h"

namespace wyvern::agent {
namespace {

bool WaitFor(const EventFd& stop, std::chrono::milliseconds limit) {
  pollfd wait{.fd = stop.fd().get(), .events = POLLIN, .revents = 0};
  return poll(&wait, 1, static_cast<int>(limit.count())) > 0;
}

}  // namespace

IdleCache::~IdleCache() {
  if (thread_ != nullptr) {
    thread_->Join();
  }
}

void IdleCache::Add(const std::string& id, const std::string& directory) {
  if (mode_ != v1::CACHE_RECLAIM_LIMITED && mode_ != v1::CACHE_RECLAIM_ALWAYS) {
    return;
  }
  {
    const std::lock_guard lock(mu_);
    groups_.insert_or_assign(id, std::make_shared<Group>(directory));
  }
  if (thread_ == nullptr && !failed_) {
    auto started = WorkerThread::Start("idle-cache", [this](const EventFd& stop) { Run(stop); });
    if (started) {
      thread_ = *std::move(started);
    } else {
      failed_ = true;
      WV_WARN("page cache stays where it is: {}", started.error().message());
    }
  }
}

void IdleCache::Remove(const std::string& id) {
  const std::lock_guard lock(mu_);
  const auto it = groups_.find(id);
  if (it != groups_.end()) {
    it->second->gone = true;
    groups_.erase(it);
  }
}

void IdleCache::Run(const EventFd& stop) {
  while (!WaitFor(stop, period_)) {
    if (!Round(stop)) {
      return;
    }
  }
}

bool IdleCache::Wanted(const Group& group) const {
  if (mode_ == v1::CACHE_RECLAIM_ALWAYS) {
    return true;
  }
  const std::string limit = ReadFile(group.directory + "/memory.max", 64).value_or("max");
  return !limit.starts_with("max");
}

bool IdleCache::Round(const EventFd& stop) {
  std::vector<GroupPtr> groups;
  {
    const std::lock_guard lock(mu_);
    groups.reserve(groups_.size());
    for (const auto& [id, group] : groups_) {
      groups.push_back(group);
    }
  }
  for (const GroupPtr& group : groups) {
    if (group->gone || !Wanted(*group)) {
      continue;
    }
    const auto taken = group->reclaim.Round(std::chrono::steady_clock::now(), [&] {
      return group->gone || WaitFor(stop, std::chrono::milliseconds(0));
    });
    if (taken) {
      if (*taken > 0) {
        WV_DEBUG("{}: up to {} KiB of idle page cache taken", group->directory, *taken >> 10U);
      }
    } else if (taken.error().code() == Code::kUnimplemented) {
      WV_WARN("page cache stays where it is: {}", taken.error().message());
      return false;
    } else if (taken.error().code() != Code::kNotFound) {
      WV_DEBUG("{}", taken.error().message());  // the group may be on its way out
    }
  }
  return true;
}

}  // namespace wyvern::agent
