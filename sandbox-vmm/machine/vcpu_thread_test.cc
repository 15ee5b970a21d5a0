// vCPU threads with guests of a few instructions (bearable where KVM interprets guests).
#include "machine/vcpu_thread.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <future>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "machine/testing/probe_machine.h"

namespace wyvern::machine {
namespace {

using std::chrono::milliseconds;

class VcpuThreadsTest : public testing::ProbeMachineTest {
 protected:
  void Make(uint32_t count, std::initializer_list<unsigned> code) {
    MakeStopped(count, code);
    ASSERT_TRUE(threads_->Start(count).has_value());
  }

  void MakeStopped(uint32_t count, std::initializer_list<unsigned> code) {
    Load(code);
    MakeThreads(count, [this](const char* name) {
      const std::lock_guard lock(mu_);
      names_.emplace_back(name);
    });
  }

  // `start` where only `room` more descriptors can be opened; each thread takes one.
  template <typename Start>
  Result<> WithRoomFor(size_t room, Start start) {
    rlimit before{};
    EXPECT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
    const rlimit low{256, before.rlim_max};
    EXPECT_EQ(::setrlimit(RLIMIT_NOFILE, &low), 0);
    std::vector<UniqueFd> taken;
    while (auto fd = Open("/dev/null", O_RDONLY)) {
      taken.push_back(*std::move(fd));
    }
    taken.resize(taken.size() - room);
    auto started = start();
    EXPECT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
    return started;
  }

  std::vector<uint32_t> Running() const {
    std::vector<uint32_t> ids;
    for (const VcpuThreadId& each : threads_->threads()) {
      EXPECT_EQ(::access(fmt::format("/proc/self/task/{}", each.thread).c_str(), F_OK), 0);
      ids.push_back(each.vcpu);
    }
    return ids;
  }

  static std::string ErrorOf(const Result<>& result) {
    return result ? "no error" : std::string(result.error().message());
  }

  std::mutex mu_;
  std::vector<std::string> names_;  // guarded by mu_ while threads run
};

TEST_F(VcpuThreadsTest, PausedVcpusDoNothingUntilResumed) {
  Make(2, {0xe6, 0x10, 0xeb, 0xfc});  // 1: out 0x10, al; jmp 1b
  ASSERT_TRUE(Eventually([&] { return handler_.ports > 10; }));
  for (int round = 0; round < 20; ++round) {
    threads_->Pause();
    EXPECT_EQ(handler_.inside, 0);
    const int before = handler_.ports;
    std::this_thread::sleep_for(milliseconds(2));
    EXPECT_EQ(handler_.ports, before);
    threads_->Resume();
    ASSERT_TRUE(Eventually([&] { return handler_.ports > before; }));
  }
  EXPECT_EQ(handler_.last_port, 0x10U);
}

TEST_F(VcpuThreadsTest, GuestThatNeverExitsIsPausedAndStopped) {
  Make(1, {0xeb, 0xfe});  // jmp $
  std::this_thread::sleep_for(milliseconds(5));
  threads_->Pause();
  threads_->Pause();  // idempotent
  threads_->Resume();
  threads_->Resume();
  threads_->Stop();
  threads_->Stop();
  EXPECT_TRUE(handler_.Faults().empty());
}

TEST_F(VcpuThreadsTest, PauseBeforeTheThreadsCameUpHolds) {
  Make(2, {0xe6, 0x10, 0xeb, 0xfc});
  threads_->Pause();
  const int before = handler_.ports;
  std::this_thread::sleep_for(milliseconds(5));
  EXPECT_EQ(handler_.ports, before);
  threads_->Stop();  // from the paused state
}

TEST_F(VcpuThreadsTest, StartThatFailsHalfWayLeavesNoneRunning) {
#ifdef WV_SANITIZED
  GTEST_SKIP() << "UBSan opens a pipe whenever it meets a new type";
#endif
  MakeStopped(2, {0xe6, 0x10, 0xeb, 0xfc});
  ASSERT_FALSE(WithRoomFor(1, [&] { return threads_->Start(2); }).has_value());
  const int before = handler_.ports;
  std::this_thread::sleep_for(milliseconds(5));
  EXPECT_EQ(handler_.ports, before);
  threads_->Pause();  // returns although one of the two never came
  threads_->Resume();
  EXPECT_EQ(names_.size(), 1U);
}

TEST_F(VcpuThreadsTest, FaultOfOneVcpuStopsAllAndIsReportedOnce) {
  // An invalid opcode without an IDT: triple fault.
  Make(2, {0xe6, 0x10, 0x0f, 0x0b});
  ASSERT_TRUE(Eventually([&] { return !handler_.Faults().empty(); }));
  threads_->Pause();  // returns although nobody is left to park
  threads_->Stop();
  EXPECT_EQ(handler_.Faults().front(), "triple fault");
  EXPECT_GE(ExitsBy(kvm::ExitReason::kShutdown), 1U);
}

// As a write to a doorbell's eventfd that a vhost-user back-end has filled and made blocking. A signal
// that comes before such a call does not end it: there is one for each of the three.
TEST_F(VcpuThreadsTest, CallThatWaitsForAnotherProcessHoldsNeitherPauseNorStopUp) {
  const UniqueFd full(::eventfd(0, EFD_CLOEXEC));
  const uint64_t most = ~uint64_t{1};
  ASSERT_EQ(::write(full.get(), &most, sizeof(most)), ssize_t{sizeof(most)});
  std::atomic<int> interrupted{0};
  handler_.during_port = [&] {
    for (int i = 0; i < 3; ++i) {
      const uint64_t one = 1;
      interrupted += ::write(full.get(), &one, sizeof(one)) < 0 && errno == EINTR ? 1 : 0;
    }
  };
  const auto in_time = [&](auto step) {
    auto done = std::async(std::launch::async, step);
    const bool ready = done.wait_for(std::chrono::seconds(20)) == std::future_status::ready;
    uint64_t count = 0;
    return ready || ::read(full.get(), &count, sizeof(count)) < 0;  // lets it go
  };
  Make(1, {0xe6, 0x10, 0xeb, 0xfc});
  ASSERT_TRUE(Eventually([&] { return handler_.inside > 0; }));
  ASSERT_TRUE(in_time([&] { threads_->Pause(); }));
  EXPECT_EQ(interrupted, 3);
  threads_->Resume();
  ASSERT_TRUE(Eventually([&] { return handler_.inside > 0; }));
  ASSERT_TRUE(in_time([&] { threads_->Stop(); }));
  EXPECT_EQ(interrupted, 6);
}

TEST_F(VcpuThreadsTest, VcpusComeAndGoWhileOthersRun) {
  MakeStopped(3, {0xe6, 0x10, 0xeb, 0xfc});
  ASSERT_TRUE(threads_->Start(1).has_value());
  EXPECT_EQ(Running(), (std::vector<uint32_t>{0}));
  for (int round = 0; round < 50; ++round) {
    ASSERT_TRUE(threads_->StartOne(2).has_value());
    ASSERT_TRUE(threads_->StartOne(2).has_value());  // idempotent
    EXPECT_EQ(Running(), (std::vector<uint32_t>{0, 2}));
    handler_.off = 1U << 2U;
    const auto stopped = threads_->StopOne(2);
    ASSERT_TRUE(stopped.has_value()) << ErrorOf(stopped);
    ASSERT_TRUE(threads_->StopOne(2).has_value());  // idempotent
    EXPECT_EQ(Running(), (std::vector<uint32_t>{0}));
    handler_.off = 0;
    const int before = handler_.ports;
    ASSERT_TRUE(Eventually([&] { return handler_.ports > before + 2; }));
  }
  ASSERT_TRUE(threads_->StartOne(1).has_value());
  threads_->Stop();
  EXPECT_TRUE(Running().empty());
  EXPECT_TRUE(handler_.Faults().empty());
}

TEST_F(VcpuThreadsTest, VcpuThatTheGuestKeepsRunsOn) {
  Make(2, {0xe6, 0x10, 0xeb, 0xfc});
  const auto refused = threads_->StopOne(1);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code(), Code::kFailedPrecondition);
  EXPECT_EQ(refused.error().message(), "vCPU 1 still runs: the guest has not taken it off line");
  EXPECT_GT(handler_.looks, 10);
  EXPECT_EQ(Running(), (std::vector<uint32_t>{0, 1}));
  const auto each = threads_->exits();
  ASSERT_EQ(each.size(), 2U);
  for (const ExitCounts& vcpu : each) {
    EXPECT_GT(vcpu.at(static_cast<size_t>(kvm::ExitReason::kPortWrite)), 0U) << "counted apart";
  }
  const uint64_t before = ExitsBy(kvm::ExitReason::kPortWrite);
  ASSERT_TRUE(Eventually([&] { return ExitsBy(kvm::ExitReason::kPortWrite) > before + 10; }));
  const int interrupted = static_cast<int>(ExitsBy(kvm::ExitReason::kInterrupted));
  std::this_thread::sleep_for(milliseconds(5));
  EXPECT_LE(ExitsBy(kvm::ExitReason::kInterrupted), static_cast<uint64_t>(interrupted) + 5)
      << "the request to leave was taken back";
}

TEST_F(VcpuThreadsTest, VcpuThatIsSlowToGoOffIsWaitedFor) {
  Make(2, {0xe6, 0x10, 0xeb, 0xfc});
  auto stopped = std::async(std::launch::async, [&] { return threads_->StopOne(1).has_value(); });
  ASSERT_TRUE(Eventually([&] { return handler_.looks > 3; }));
  handler_.off = 1U << 1U;
  EXPECT_TRUE(stopped.get());
  EXPECT_EQ(Running(), (std::vector<uint32_t>{0}));
}

TEST_F(VcpuThreadsTest, BootCpuAndUnknownVcpusAreRefused) {
  Make(2, {0xe6, 0x10, 0xeb, 0xfc});
  handler_.off = ~0U;
  for (const uint32_t id : {2U, 32U, 0xffffffffU}) {
    EXPECT_EQ(threads_->StartOne(id).error().code(), Code::kInvalidArgument);
    EXPECT_EQ(threads_->StopOne(id).error().code(), Code::kInvalidArgument);
  }
  EXPECT_EQ(threads_->StopOne(0).error().code(), Code::kInvalidArgument);
  EXPECT_EQ(ErrorOf(threads_->StartOne(7)), "no vCPU 7: this machine was made with 2");
  EXPECT_EQ(Running(), (std::vector<uint32_t>{0, 1}));
}

TEST_F(VcpuThreadsTest, VcpusComeAndGoWhilePaused) {
  MakeStopped(3, {0xe6, 0x10, 0xeb, 0xfc});
  ASSERT_TRUE(threads_->Start(2).has_value());
  threads_->Pause();
  const int before = handler_.ports;
  ASSERT_TRUE(threads_->StartOne(2).has_value());
  EXPECT_EQ(Running(), (std::vector<uint32_t>{0, 1, 2}));
  // The guest stands still: waiting would not help.
  const auto begun = std::chrono::steady_clock::now();
  EXPECT_EQ(threads_->StopOne(1).error().code(), Code::kFailedPrecondition);
  EXPECT_LT(std::chrono::steady_clock::now() - begun, VcpuThreads::kOffPatience / 2);
  handler_.off = 1U << 1U;
  ASSERT_TRUE(threads_->StopOne(1).has_value());
  EXPECT_EQ(Running(), (std::vector<uint32_t>{0, 2}));
  std::this_thread::sleep_for(milliseconds(5));
  EXPECT_EQ(handler_.ports, before);
  threads_->Resume();
  ASSERT_TRUE(Eventually([&] { return handler_.ports > before; }));
  threads_->Pause();
  threads_->Resume();
}

TEST_F(VcpuThreadsTest, EndOfTheGuestEndsAStopThatWaits) {
  Make(2, {0xe6, 0x10, 0xeb, 0xfc});
  auto stopped = std::async(std::launch::async, [&] { return ErrorOf(threads_->StopOne(1)); });
  ASSERT_TRUE(Eventually([&] { return handler_.looks > 1; }));
  threads_->RequestStop();
  EXPECT_EQ(stopped.get(), "the guest has ended");
  threads_->Stop();
  EXPECT_EQ(ErrorOf(threads_->StartOne(1)), "the guest has ended");
  EXPECT_EQ(ErrorOf(threads_->StopOne(1)), "the guest has ended");
}

// Whoever resizes is another thread than whoever pauses.
TEST_F(VcpuThreadsTest, PausesAndChangesOfVcpusDoNotMeet) {
  MakeStopped(4, {0xe6, 0x10, 0xeb, 0xfc});
  ASSERT_TRUE(threads_->Start(1).has_value());
  handler_.off = ~1U;
  auto resizes = std::async(std::launch::async, [&] {
    for (int round = 0; round < 30; ++round) {
      for (const uint32_t id : {1U, 2U, 3U}) {
        EXPECT_TRUE(threads_->StartOne(id).has_value());
      }
      for (const uint32_t id : {3U, 1U, 2U}) {
        EXPECT_TRUE(threads_->StopOne(id).has_value());
      }
    }
  });
  for (int round = 0; round < 30; ++round) {
    threads_->Pause();
    const int before = handler_.ports;
    EXPECT_EQ(handler_.inside, 0);
    std::this_thread::sleep_for(milliseconds(1));
    EXPECT_EQ(handler_.ports, before);
    threads_->Resume();
  }
  resizes.get();
  EXPECT_EQ(Running(), (std::vector<uint32_t>{0}));
}

TEST_F(VcpuThreadsTest, ThreadThatCannotBeMadeLeavesTheOthersRunning) {
#ifdef WV_SANITIZED
  GTEST_SKIP() << "UBSan opens a pipe whenever it meets a new type";
#endif
  MakeStopped(2, {0xe6, 0x10, 0xeb, 0xfc});
  ASSERT_TRUE(threads_->Start(1).has_value());
  ASSERT_TRUE(Eventually([&] { return handler_.ports > 1; }));
  EXPECT_FALSE(WithRoomFor(0, [&] { return threads_->StartOne(1); }).has_value());
  EXPECT_EQ(Running(), (std::vector<uint32_t>{0}));
  threads_->Pause();
  threads_->Resume();
  ASSERT_TRUE(threads_->StartOne(1).has_value());
  EXPECT_EQ(Running(), (std::vector<uint32_t>{0, 1}));
}

TEST_F(VcpuThreadsTest, HookSeesEveryThreadByName) {
  Make(2, {0xe6, 0x10, 0xeb, 0xfc});
  ASSERT_TRUE(Eventually([&] { return handler_.ports > 1; }));
  threads_->Stop();
  std::sort(names_.begin(), names_.end());
  EXPECT_EQ(names_, (std::vector<std::string>{"vcpu0", "vcpu1"}));
}

}  // namespace
}  // namespace wyvern::machine
