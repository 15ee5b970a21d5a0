// vCPU threads with guests of a few instructions (bearable where KVM interprets guests).
#include "machine/vcpu_thread.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include <gtest/gtest.h>

#include "kvm/kvm.h"
#include "kvm/probe_guest.h"

namespace wyvern::machine {
namespace {

using std::chrono::milliseconds;

constexpr uint64_t kCode = 0x4000;

class RecordingHandler : public ExitHandler {
 public:
  void OnPort(const kvm::Exit& exit) override {
    inside.fetch_add(1);
    last_port = exit.address;
    ports.fetch_add(1);
    inside.fetch_sub(1);
  }

  void OnMmio(const kvm::Exit&) override { mmio.fetch_add(1); }

  void OnEndOfInterrupt(uint8_t) override {}

  bool OnSystemEvent(uint64_t) override { return false; }

  void OnFault(const kvm::Vcpu&, const std::string& what) override {
    const std::lock_guard lock(mu);
    faults.push_back(what);
  }

  std::vector<std::string> Faults() {
    const std::lock_guard lock(mu);
    return faults;
  }

  std::atomic<int> inside{0};
  std::atomic<uint64_t> last_port{0};
  std::atomic<int> ports{0};
  std::atomic<int> mmio{0};
  std::mutex mu;
  std::vector<std::string> faults;
};

class VcpuThreadsTest : public testing::Test {
 protected:
  void SetUp() override {
    if (::access("/dev/kvm", R_OK | W_OK) != 0) {
      GTEST_SKIP() << "no usable /dev/kvm on this host";
    }
    auto kvm = kvm::Kvm::Create(*Open("/dev/kvm", O_RDWR));
    ASSERT_TRUE(kvm.has_value()) << kvm.error().message();
    kvm_ = std::make_unique<kvm::Kvm>(*std::move(kvm));
    vm_ = std::make_unique<kvm::Vm>(*kvm_->CreateVm());
    std::vector<mem::RegionSpec> regions(1);
    regions[0].size = kvm::kProbeMemory;
    memory_ = *mem::GuestMemory::Create(std::move(regions));
    ASSERT_TRUE(vm_->SetMemslot(0, memory_->regions()[0]).has_value());
    std::vector<std::byte> image(kvm::kProbeMemory);
    kvm::WriteProbeGuest(image);
    ASSERT_TRUE(memory_->WriteBytes(mem::Gpa{0}, image).has_value());
  }

  void Make(uint32_t count, std::initializer_list<unsigned> code) {
    MakeStopped(count, code);
    ASSERT_TRUE(threads_->Start().has_value());
  }

  void MakeStopped(uint32_t count, std::initializer_list<unsigned> code) {
    uint64_t at = kCode;
    for (const unsigned byte : code) {
      ASSERT_TRUE(memory_->Write<uint8_t>(mem::Gpa{at++}, static_cast<uint8_t>(byte)).has_value());
    }
    std::vector<kvm::Vcpu> vcpus;
    for (uint32_t i = 0; i < count; ++i) {
      auto vcpu = vm_->CreateVcpu(i);
      ASSERT_TRUE(vcpu.has_value());
      ASSERT_TRUE(kvm::SetProbeRegisters(vcpu->fd()).has_value());
      vcpus.push_back(*std::move(vcpu));
    }
    threads_ = std::make_unique<VcpuThreads>(std::move(vcpus), &handler_, [this](const char* name) {
      const std::lock_guard lock(handler_.mu);
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

  template <typename Condition>
  static bool Eventually(Condition condition) {
    for (int i = 0; i < 2000 && !condition(); ++i) {
      std::this_thread::sleep_for(milliseconds(1));
    }
    return condition();
  }

  RecordingHandler handler_;
  std::vector<std::string> names_;
  std::unique_ptr<kvm::Kvm> kvm_;
  std::unique_ptr<kvm::Vm> vm_;
  std::shared_ptr<const mem::GuestMemory> memory_;
  std::unique_ptr<VcpuThreads> threads_;
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

TEST_F(VcpuThreadsTest, HookSeesEveryThreadByName) {
  Make(2, {0xe6, 0x10, 0xeb, 0xfc});
  ASSERT_TRUE(Eventually([&] { return handler_.ports > 1; }));
  threads_->Stop();
  std::sort(names_.begin(), names_.end());
  EXPECT_EQ(names_, (std::vector<std::string>{"vcpu0", "vcpu1"}));
}

}  // namespace
}  // namespace wyvern::machine
