// machine/memory_patience.h — how long a vCPU tries again at memory that the host does not have.
// Shape:   tries follow each other at once. One that comes after a pause is another access, which is waited for anew: a guest is not ended
//          for many short waits.
// Threads: one.
#pragma once

#include <chrono>

namespace wyvern::machine {

class MemoryPatience {
 public:
  using Time = std::chrono::steady_clock::time_point;

  static constexpr std::chrono::milliseconds kRetry{1};  // between tries
  static constexpr std::chrono::milliseconds kPause{100};
  static constexpr std::chrono::milliseconds kPatience{500};

  // The access failed at `now`. False: it is given up.
  bool TryAgain(Time now) {
    if (now - last_ > kPause) {
      first_ = now;
    }
    last_ = now;
    return now - first_ < kPatience;
  }

 private:
  Time first_;
  Time last_;
};

}  // namespace wyvern::machine
