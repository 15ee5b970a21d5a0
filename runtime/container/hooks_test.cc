#include "container/hooks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <thread>

#include "base/fd.h"
#include "state/state.h"

namespace wyvern::runtime {
namespace {

using testing::AllOf;
using testing::HasSubstr;

class HooksTest : public testing::Test {
 protected:
  HooksTest() {
    std::string name = std::filesystem::temp_directory_path() / "wyvern-hooks-XXXXXX";
    dir_ = mkdtemp(name.data());
    state_.id = "box";
    state_.status = "created";
    state_.bundle = dir_;
  }

  ~HooksTest() override {
    std::error_code error;
    std::filesystem::remove_all(dir_, error);
  }

  HooksTest(const HooksTest&) = delete;
  HooksTest& operator=(const HooksTest&) = delete;

  // Its directory is dir_.
  static oci::Hook Shell(const std::string& script, int timeout_seconds = 0) {
    return {"/bin/sh", {"sh", "-c", script}, {"PATH=/usr/bin:/bin"}, timeout_seconds};
  }

  Result<> Run(const std::vector<oci::Hook>& hooks) {
    return RunHooks("prestart", hooks, state_, stop_.get_token());
  }

  // The number that a hook writes into `pid`, once it is there.
  pid_t AwaitPid() const {
    for (int i = 0; i < 500; ++i) {
      if (const auto text = ReadFile(dir_ + "/pid"); text.has_value() && text->ends_with('\n')) {
        return std::stoi(*text);
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return 0;
  }

  static bool AwaitGone(pid_t pid) {
    for (int i = 0; i < 200; ++i) {
      if (!ProcessStartTime(pid).has_value()) {
        return true;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
  }

  std::string dir_;
  HookState state_;
  std::stop_source stop_;
};

constexpr const char* kSleepsInAChild = "sleep 100 & echo $! > pid; wait";

TEST_F(HooksTest, StopKillsTheHookAndItsChildrenAndStartsNoOther) {
  std::thread stopper([this] {
    AwaitPid();
    stop_.request_stop();
  });
  const auto begin = std::chrono::steady_clock::now();
  const auto ran = Run({Shell(kSleepsInAChild), Shell("touch second")});
  stopper.join();
  ASSERT_FALSE(ran.has_value());
  EXPECT_EQ(ran.error().code(), Code::kAborted);
  EXPECT_THAT(ran.error().message(),
              AllOf(HasSubstr("prestart hook /bin/sh"), HasSubstr("shutting down")));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));
  EXPECT_TRUE(AwaitGone(AwaitPid()));
  EXPECT_FALSE(std::filesystem::exists(dir_ + "/second"));
}

TEST_F(HooksTest, NoneIsStartedAfterTheStop) {
  stop_.request_stop();
  const auto ran = Run({Shell("touch first")});
  ASSERT_FALSE(ran.has_value());
  EXPECT_EQ(ran.error().code(), Code::kAborted);
  EXPECT_FALSE(std::filesystem::exists(dir_ + "/first"));
}

TEST_F(HooksTest, TimeoutKillsTheHookAndItsChildren) {
  const auto ran = Run({Shell(kSleepsInAChild, 1)});
  ASSERT_FALSE(ran.has_value());
  EXPECT_EQ(ran.error().code(), Code::kDeadlineExceeded);
  EXPECT_TRUE(AwaitGone(AwaitPid()));
}

TEST_F(HooksTest, WhatAHookLeavesInTheBackgroundIsNotWaitedFor) {
  const auto begin = std::chrono::steady_clock::now();
  const auto ran = Run({Shell("sleep 30 & echo $! > pid")});
  EXPECT_TRUE(ran.has_value());
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(10));
  const pid_t pid = AwaitPid();
  EXPECT_TRUE(ProcessStartTime(pid).has_value());
  ASSERT_GT(pid, 1);
  kill(pid, SIGKILL);
}

TEST_F(HooksTest, FailureIsNamedWithWhatItSaid) {
  const auto ran = Run({Shell("cat >&2; echo; echo no way >&2; exit 4")});
  ASSERT_FALSE(ran.has_value());
  EXPECT_EQ(ran.error().code(), Code::kAborted);
  EXPECT_THAT(ran.error().message(),
              AllOf(HasSubstr("ended with 4"), HasSubstr(R"("id":"box")"), HasSubstr("no way")));
}

TEST_F(HooksTest, MuchOnBothStreamsDoesNotBlockIt) {
  EXPECT_TRUE(Run({Shell("head -c 1000000 /dev/zero; head -c 1000000 /dev/zero >&2")}).has_value());
}

}  // namespace
}  // namespace wyvern::runtime
