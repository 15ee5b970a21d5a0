// testing/wait.h — waits for what another thread does.
#pragma once

#include <chrono>
#include <thread>

namespace wyvern::devices::testing {

// Until done(), which is asked again and again; false after `timeout`.
template <typename F>
bool WaitUntil(F done, std::chrono::milliseconds timeout = std::chrono::seconds(10)) {
  const auto end = std::chrono::steady_clock::now() + timeout;
  while (!done()) {
    if (std::chrono::steady_clock::now() >= end) {
      return false;
    }
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  return true;
}

}  // namespace wyvern::devices::testing
