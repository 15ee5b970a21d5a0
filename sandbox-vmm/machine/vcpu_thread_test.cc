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

#include <gtest/gtest.h>

#include "machine/testing/probe_machine.h"

namespace wyvern::machine {
namespace {

using std::chrono::milliseconds;

class VcpuThreadsTest : public testing::ProbeMachineTest {
 protected:
  void Make(uint32_t count, std::initializer_list<unsigned> code) {
    MakeStopped(count, code);
    ASSERT_TRUE(threads_->Start().has_value());
  }

  void MakeStopped(uint32_t count, std::initializer_list<unsigned> code) {
    Load(code);
    MakeThreads(count, [this](const char* name) {
      const std::lock_guard lock(mu_);
      names_.emplace_back(name);
    });
  }

  // Start where only `room` more descriptors can be opened; each thread takes one.
  Result<> StartWithRoomFor(size_t room) {
    rlimit before{};
    EXPECT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
    const rlimit low{256, before.rlim_max};
    EXPECT_EQ(::setrlimit(RLIMIT_NOFILE, &low), 0);
    std::vector<UniqueFd> taken;
    while (auto fd = Open("/dev/null", O_RDONLY)) {
      taken.push_back(*std::move(fd));
    }
    taken.resize(taken.size() - room);
    auto started = threads_->Start();
    EXPECT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
    return started;
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
  ASSERT_FALSE(StartWithRoomFor(1).has_value());
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
  EXPECT_GE(threads_->exits()[static_cast<size_t>(kvm::ExitReason::kShutdown)], 1U);
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

TEST_F(VcpuThreadsTest, HookSeesEveryThreadByName) {
  Make(2, {0xe6, 0x10, 0xeb, 0xfc});
  ASSERT_TRUE(Eventually([&] { return handler_.ports > 1; }));
  threads_->Stop();
  std::sort(names_.begin(), names_.end());
  EXPECT_EQ(names_, (std::vector<std::string>{"vcpu0", "vcpu1"}));
}

}  // namespace
}  // namespace wyvern::machine
