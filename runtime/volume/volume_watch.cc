#include "volume/volume_watch.h"

#include <sys/inotify.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/log.h"

namespace wyvern::runtime {
namespace {

// A symlink is changed by a rename over it, or removed and made again.
constexpr uint32_t kEvents = IN_MOVED_TO | IN_CREATE | IN_ONLYDIR | IN_DONT_FOLLOW;
// A turn of the loop. The rest wakes it again.
constexpr int kReadsPerTurn = 16;

}  // namespace

VolumeWatch::VolumeWatch(LoopThread& loop, std::function<void()> changed, bool instances)
    : loop_(loop), changed_(std::move(changed)), instances_(instances) {}

VolumeWatch::~VolumeWatch() {
  loop_.Call([this] {
    for (const EventLoop::Token token : {reading_, settling_, polling_}) {
      loop_.loop().Remove(token);
    }
  });
}

bool VolumeWatch::OpenInotify() {
  if (inotify_.valid() || !instances_) {
    return inotify_.valid();
  }
  inotify_.Reset(inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  if (inotify_.valid()) {
    auto token = loop_.loop().Add(inotify_, EPOLLIN, [this](uint32_t) { OnEvents(); });
    if (token.has_value()) {
      reading_ = *token;
      return true;
    }
    inotify_.Reset();
  }
  instances_ = false;
  WV_WARN("volumes: no inotify (fs.inotify.max_user_instances): {}: they are looked at each {} ms",
          strerrordesc_np(errno), kVolumePoll.count());
  return false;
}

void VolumeWatch::Add(const std::string& path) {
  loop_.Call([&] {
    if (OpenInotify()) {
      const int number = inotify_add_watch(inotify_.get(), path.c_str(), kEvents);
      if (number >= 0) {
        watched_[path] = number;
        return;
      }
    }
    polled_.insert(path);
    if (polling_ == EventLoop::Token::kNone) {
      polling_ = loop_.loop().After(kVolumePoll, [this] { Poll(); });
    }
  });
}

void VolumeWatch::Remove(const std::string& path) {
  loop_.Call([&] {
    polled_.erase(path);
    if (const auto it = watched_.find(path); it != watched_.end()) {
      static_cast<void>(inotify_rm_watch(inotify_.get(), it->second));
      watched_.erase(it);
    }
  });
}

void VolumeWatch::Poll() {
  polling_ = EventLoop::Token::kNone;
  if (polled_.empty()) {
    return;
  }
  polling_ = loop_.loop().After(kVolumePoll, [this] { Poll(); });
  changed_();
}

void VolumeWatch::CallLater(std::chrono::milliseconds delay) {
  loop_.Call([&] { CallAfter(delay); });
}

void VolumeWatch::CallAfter(std::chrono::milliseconds delay) {
  const auto due = std::chrono::steady_clock::now() + delay;
  if (settling_ != EventLoop::Token::kNone) {
    if (due_ <= due) {
      return;
    }
    loop_.loop().Remove(settling_);
  }
  due_ = due;
  settling_ = loop_.loop().After(delay, [this] {
    settling_ = EventLoop::Token::kNone;
    changed_();
  });
}

void VolumeWatch::OnEvents() {
  // Which one is not read: who is called looks at each, which is one system call or two.
  alignas(inotify_event) std::array<char, 4096> ignored{};
  bool any = false;
  for (int i = 0; i < kReadsPerTurn; ++i) {
    if (read(inotify_.get(), ignored.data(), ignored.size()) <= 0) {
      break;
    }
    any = true;
  }
  if (any) {
    CallAfter(kVolumeSettles);
  }
}

}  // namespace wyvern::runtime
