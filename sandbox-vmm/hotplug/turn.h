// hotplug/turn.h — one change at a time, for those that wait for a guest: who wants the next turn waits until a deadline.
// Why:     what std::timed_mutex does with a steady clock is not known to gcc 12's thread sanitizer.
// Threads: any; the turn may be given back by another thread than took it.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>

namespace wyvern::hotplug {

class Turn {
 public:
  // The turn, if it came before the deadline; given back by the destructor.
  class Taken {
   public:
    Taken(Turn& turn, std::chrono::steady_clock::time_point deadline) : turn_(turn) {
      std::unique_lock lock(turn_.mu_);
      ours_ = turn_.changed_.wait_until(lock, deadline, [this] { return !turn_.taken_; });
      turn_.taken_ = turn_.taken_ || ours_;
    }

    ~Taken() {
      if (ours_) {
        const std::lock_guard lock(turn_.mu_);
        turn_.taken_ = false;
        turn_.changed_.notify_one();
      }
    }

    Taken(const Taken&) = delete;
    Taken& operator=(const Taken&) = delete;

    explicit operator bool() const { return ours_; }

   private:
    Turn& turn_;
    bool ours_ = false;
  };

 private:
  std::mutex mu_;  // a leaf
  std::condition_variable changed_;
  bool taken_ = false;  // guarded by mu_
};

}  // namespace wyvern::hotplug
