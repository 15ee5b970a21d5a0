#include "container/hooks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <thread>

#include "base/fd.h"
#include "base/subprocess.h"
#include "state/state.h"

namespace wyvern::runtime {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

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
    return {"/bin/sh", {"sh", "-c", script}, {{"PATH=/usr/bin:/bin"}}, timeout_seconds};
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

// docker's libnetwork-setkey is a name in args[0], its path that of dockerd.
TEST_F(HooksTest, ProgramIsThePathItsNameIsTheFirstArgument) {
  oci::Hook hook = Shell("cat /proc/$$/cmdline | tr '\\0' ' ' > argv; echo $WHO > who");
  hook.args[0] = "libnetwork-setkey";
  hook.env->emplace_back("WHO=me");
  ASSERT_TRUE(Run({hook}).has_value());
  EXPECT_THAT(ReadFile(dir_ + "/argv").value_or(""), testing::StartsWith("libnetwork-setkey -c "));
  EXPECT_EQ(ReadFile(dir_ + "/who").value_or(""), "me\n");
}

TEST_F(HooksTest, EnvironmentIsOursWhereItNamesNone) {
  setenv("WYVERN_HOOKS_TEST", "ours", 1);
  oci::Hook hook = Shell("echo $WYVERN_HOOKS_TEST > env");
  hook.env = {};
  ASSERT_TRUE(Run({hook}).has_value());
  EXPECT_EQ(ReadFile(dir_ + "/env").value_or(""), "ours\n");
  hook.env.emplace();
  ASSERT_TRUE(Run({hook}).has_value());
  EXPECT_EQ(ReadFile(dir_ + "/env").value_or(""), "\n");
}

TEST_F(HooksTest, PoststopHooksRunWhateverFails) {
  state_.status = "stopped";
  RunPoststopHooks({Shell("exit 3"), Shell("sleep 100", 50), Shell("cat > last")}, state_,
                   stop_.get_token(), std::chrono::seconds(1));
  EXPECT_THAT(ReadFile(dir_ + "/last").value_or(""),
              AllOf(HasSubstr(R"("status":"stopped")"), Not(HasSubstr("pid"))));
}

// What they mount is theirs; where they are is the network namespace of the process that the state names.
TEST_F(HooksTest, CreateContainerHooksAreInNamespacesOfTheContainer) {
  if (geteuid() != 0) {
    GTEST_SKIP() << "needs root";
  }
  const auto started = Subprocess::Spawn(
      {.argv = {"/usr/bin/unshare", "--net", "sleep", "100"}, .env = {}, .fds = {}, .cwd = ""});
  ASSERT_TRUE(started.has_value());
  state_.pid = started->pid();
  const auto net = [](const std::string& of) {
    std::error_code error;
    return std::filesystem::read_symlink("/proc/" + of + "/ns/net", error).string();
  };
  for (int i = 0; i < 500 && net(std::to_string(state_.pid)) == net("self"); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  const std::string theirs = net(std::to_string(state_.pid));
  const std::string seen = "readlink /proc/self/ns/net >> ";
  std::filesystem::create_directory(dir_ + "/m");
  oci::HostHooks hooks;
  hooks.prestart = {Shell(seen + "pre")};
  hooks.create_runtime = {Shell("test -s pre; " + seen + "rt")};
  hooks.create_container = {
      Shell("test -s rt && mount -t tmpfs none m && touch m/mine; " + seen + "cc")};
  const auto ran = RunCreateHooks(hooks, state_, stop_.get_token());
  static_cast<void>(started->Kill(SIGKILL));
  static_cast<void>(started->Wait());
  ASSERT_TRUE(ran.has_value()) << ran.error().message();
  EXPECT_EQ(ReadFile(dir_ + "/pre").value_or(""), net("self") + "\n");
  EXPECT_EQ(ReadFile(dir_ + "/rt").value_or(""), net("self") + "\n");
  EXPECT_EQ(ReadFile(dir_ + "/cc").value_or(""), theirs + "\n");
  EXPECT_NE(theirs, net("self"));
  EXPECT_FALSE(std::filesystem::exists(dir_ + "/m/mine"));
}

TEST_F(HooksTest, MuchOnBothStreamsDoesNotBlockIt) {
  EXPECT_TRUE(Run({Shell("head -c 1000000 /dev/zero; head -c 1000000 /dev/zero >&2")}).has_value());
}

}  // namespace
}  // namespace wyvern::runtime
