#include "agent/uevents.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <chrono>

namespace wyvern::agent {
namespace {

using namespace std::chrono_literals;

TEST(UeventsTest, ChangeIsToldAndABurstIsFew) {
  const auto loop = *EventLoop::Create();
  int told = 0;
  const auto uevents = Uevents::Create(*loop, [&told] { ++told; });
  if (!uevents) {
    GTEST_SKIP() << uevents.error().message();
  }
  // The kernel sends for it what it would send for a change of the device, which is /dev/null.
  constexpr int kBurst = 50;
  for (int i = 0; i < kBurst; ++i) {
    if (!WriteFile("/sys/class/mem/null/uevent", "change")) {
      GTEST_SKIP() << "not allowed to have the kernel send events";
    }
  }
  for (int i = 0; i < 100 && told == 0; ++i) {
    (void)loop->RunOnce(10ms);
  }
  if (told == 0) {
    GTEST_SKIP() << "the kernel sends no events to this network namespace";
  }
  EXPECT_LT(told, kBurst);
}

}  // namespace
}  // namespace wyvern::agent
