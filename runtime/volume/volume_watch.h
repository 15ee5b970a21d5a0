// volume/volume_watch.h — tells when one of a set of kubelet's volumes may have changed.
// Method:  inotify on each volume's directory, in which ..data is renamed. Where a user's inotify instances or watches are used up (128 instances
//          by default), the directories are looked at each kVolumePoll instead, with one line in the log.
// Threads: any for Add and Remove, also the loop's; `changed` runs on the loop. Not after the loop has stopped.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "base/loop_thread.h"

namespace wyvern::runtime {

// From the first event to the call.
inline constexpr std::chrono::milliseconds kVolumeSettles{50};
inline constexpr std::chrono::milliseconds kVolumePoll{1000};

class VolumeWatch {
 public:
  // `instances` false: without inotify, for tests.
  VolumeWatch(LoopThread& loop, std::function<void()> changed, bool instances = true);
  ~VolumeWatch();
  VolumeWatch(const VolumeWatch&) = delete;
  VolumeWatch& operator=(const VolumeWatch&) = delete;

  // What is not there, or goes, is never told. Once per path.
  void Add(const std::string& path);
  void Remove(const std::string& path);
  // Calls `changed` after `delay`, unless it is called before.
  void CallLater(std::chrono::milliseconds delay);

 private:
  // All on the loop.
  bool OpenInotify();
  void OnEvents();
  void CallAfter(std::chrono::milliseconds delay);
  void Poll();

  LoopThread& loop_;
  const std::function<void()> changed_;
  bool instances_;
  UniqueFd inotify_;
  EventLoop::Token reading_ = EventLoop::Token::kNone;
  EventLoop::Token settling_ = EventLoop::Token::kNone;
  EventLoop::Token polling_ = EventLoop::Token::kNone;
  std::chrono::steady_clock::time_point due_;  // of settling_
  std::map<std::string, int> watched_;
  std::set<std::string> polled_;
};

}  // namespace wyvern::runtime
