#include "agent/oom_watch.h"

#include <sys/inotify.h>

#include <array>
#include <vector>

namespace wyvern::agent {
namespace {

constexpr std::chrono::seconds kOneEvent(1);

}  // namespace

Result<std::unique_ptr<OomWatch>> OomWatch::Create(EventLoop& loop, Callback on_oom) {
  UniqueFd inotify(inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  if (!inotify.valid()) {
    return SysError("inotify_init1");
  }
  std::unique_ptr<OomWatch> watch(new OomWatch(loop, std::move(inotify), std::move(on_oom)));
  OomWatch* raw = watch.get();
  WV_TRY(watch->token_, loop.Add(raw->inotify_, EPOLLIN, [raw](uint32_t) { raw->OnInotify(); }));
  return watch;
}

OomWatch::~OomWatch() {
  loop_.Remove(token_);
}

void OomWatch::Add(const std::string& id, const Cgroup& cgroup) {
  Watched watched{.cgroup = cgroup, .descriptor = -1, .counts = cgroup.OomEvents(), .at_limit = {}};
  const std::string file = cgroup.directory() + "/memory.events";
  watched.descriptor = inotify_add_watch(inotify_.get(), file.c_str(), IN_MODIFY);
  watched_.insert_or_assign(id, std::move(watched));
}

void OomWatch::Check(const std::string& id) {
  const auto it = watched_.find(id);
  if (it == watched_.end()) {
    return;
  }
  const OomCounts now = it->second.cgroup.OomEvents();
  OomCounts& before = it->second.counts;
  if (now.kills > before.kills) {
    // A limit that is reached counts as an event before it kills; the kernel's own search for a victim is none of the group's. What one
    // event kills, it kills at once (memory.oom.group: all of them), but we may have looked between two.
    const auto time = std::chrono::steady_clock::now();
    const bool limit = now.limits > before.limits ||
                       (it->second.at_limit && time - *it->second.at_limit < kOneEvent);
    const Reach reach = limit ? Reach::kContainer : Reach::kGuest;
    it->second.at_limit = limit ? std::optional(time) : std::nullopt;
    before = now;
    on_oom_(id, reach);
  }
}

void OomWatch::Remove(const std::string& id) {
  const auto it = watched_.find(id);
  if (it != watched_.end()) {
    if (it->second.descriptor >= 0) {
      (void)inotify_rm_watch(inotify_.get(), it->second.descriptor);
    }
    watched_.erase(it);
  }
}

// Which file it was does not matter: reading one small file per container costs less than the bookkeeping.
void OomWatch::OnInotify() {
  alignas(inotify_event) std::array<std::byte, 4096> buffer{};
  while (ReadSome(inotify_, buffer).value_or(0) > 0) {
  }
  std::vector<std::string> ids;
  ids.reserve(watched_.size());
  for (const auto& [id, watched] : watched_) {
    ids.push_back(id);
  }
  for (const std::string& id : ids) {
    Check(id);
  }
}

}  // namespace wyvern::agent
