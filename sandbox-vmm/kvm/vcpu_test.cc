// Guests of a few instructions; enough for the wrapper, and bearable where KVM interprets guests.
#include "kvm/vcpu.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>

#include <chrono>
#include <csignal>
#include <cstring>
#include <thread>

#include <gtest/gtest.h>

#include "kvm/testing/vm_test.h"

namespace wyvern::kvm {
namespace {

TEST(KvmTest, OtherFilesAreNotKvm) {
  auto file = Open("/dev/null", O_RDWR);
  ASSERT_TRUE(file.has_value());
  auto kvm = Kvm::Create(*std::move(file));
  ASSERT_FALSE(kvm.has_value());
  EXPECT_NE(kvm.error().message().find("/dev/kvm"), std::string::npos);
}

class VcpuTest : public testing::ProbeVmTest {
 protected:
  void Prepare() override {
    ASSERT_NO_FATAL_FAILURE(ProbeVmTest::Prepare());
    vcpu_ = std::make_unique<Vcpu>(*vm_->CreateVcpu(0));
    ASSERT_TRUE(SetProbeRegisters(vcpu_->fd()).has_value());
  }

  Exit Run() {
    auto exit = vcpu_->Run();
    EXPECT_TRUE(exit.has_value()) << exit.error().message();
    return *exit;
  }

  std::unique_ptr<Vcpu> vcpu_;
};

TEST_F(VcpuTest, PortAccessesCarryTheirData) {
  // mov al, 0x5a; out 0x10, al; in al, 0x11; out 0x12, al
  Load({0xb0, 0x5a, 0xe6, 0x10, 0xe4, 0x11, 0xe6, 0x12});
  Exit exit = Run();
  ASSERT_EQ(exit.reason, ExitReason::kPortWrite);
  EXPECT_EQ(exit.address, 0x10U);
  ASSERT_EQ(exit.data.size(), 1U);
  EXPECT_EQ(exit.data[0], std::byte{0x5a});
  exit = Run();
  ASSERT_EQ(exit.reason, ExitReason::kPortRead);
  EXPECT_EQ(exit.address, 0x11U);
  exit.data[0] = std::byte{0x77};
  exit = Run();
  ASSERT_EQ(exit.reason, ExitReason::kPortWrite);
  EXPECT_EQ(exit.data[0], std::byte{0x77});
}

TEST_F(VcpuTest, MmioOutsideOfTheSlotsExits) {
  // mov dword ptr [0x100000], 0x11223344
  Load({0xc7, 0x04, 0x25, 0x00, 0x00, 0x10, 0x00, 0x44, 0x33, 0x22, 0x11});
  const Exit exit = Run();
  ASSERT_EQ(exit.reason, ExitReason::kMmioWrite);
  EXPECT_EQ(exit.address, 0x100000U);
  ASSERT_EQ(exit.size, 4U);
  uint32_t value = 0;
  std::memcpy(&value, exit.data.data(), sizeof(value));
  EXPECT_EQ(value, 0x11223344U);
}

TEST_F(VcpuTest, WriteToAReadOnlySlotIsAnMmioExit) {
  std::vector<mem::RegionSpec> regions(1);
  regions[0].start = mem::Gpa{0x100000};
  regions[0].size = 4096;
  regions[0].read_only = true;
  auto read_only = *mem::GuestMemory::Create(std::move(regions));
  ASSERT_TRUE(vm_->SetMemslot(1, read_only->regions()[0]).has_value());
  Load({0xc7, 0x04, 0x25, 0x00, 0x00, 0x10, 0x00, 0x44, 0x33, 0x22, 0x11});
  const Exit exit = Run();
  EXPECT_EQ(exit.reason, ExitReason::kMmioWrite);
  EXPECT_EQ(read_only->Read<uint32_t>(mem::Gpa{0x100000}).value(), 0U);
}

TEST_F(VcpuTest, RequestedExitComesBeforeAnyInstruction) {
  Load({0xe6, 0x10});
  vcpu_->RequestExit();
  EXPECT_EQ(Run().reason, ExitReason::kInterrupted);
  EXPECT_EQ(Run().reason, ExitReason::kInterrupted);
  vcpu_->ClearExitRequest();
  EXPECT_EQ(Run().reason, ExitReason::kPortWrite);
}

TEST_F(VcpuTest, SignalEndsARunningGuest) {
  struct sigaction action {};

  action.sa_handler = [](int) {};

  struct sigaction old {};

  ASSERT_EQ(::sigaction(SIGUSR1, &action, &old), 0);
  Load({0xeb, 0xfe});  // jmp $
  const pthread_t thread = ::pthread_self();
  std::thread kicker([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    vcpu_->RequestExit();
    ::pthread_kill(thread, SIGUSR1);
  });
  EXPECT_EQ(Run().reason, ExitReason::kInterrupted);
  kicker.join();
  ::sigaction(SIGUSR1, &old, nullptr);
}

TEST_F(VcpuTest, OverlappingMemslotIsRefused) {
  EXPECT_FALSE(vm_->SetMemslot(1, memory_->regions()[0]).has_value());
}

TEST_F(VcpuTest, IoeventfdTakesTheWriteInTheKernel) {
  auto event = *EventFd::Create();
  ASSERT_TRUE(vm_->SetIoeventfd(event, 0x100000, 4, std::nullopt, true).has_value());
  EXPECT_FALSE(vm_->SetIoeventfd(event, 0x100000, 4, std::nullopt, true).has_value());
  // mov dword ptr [0x100000], imm; out 0x10, al
  Load({0xc7, 0x04, 0x25, 0x00, 0x00, 0x10, 0x00, 0x44, 0x33, 0x22, 0x11, 0xe6, 0x10});
  EXPECT_EQ(Run().reason, ExitReason::kPortWrite);
  EXPECT_EQ(event.Drain(), 1U);
  EXPECT_TRUE(vm_->SetIoeventfd(event, 0x100000, 4, std::nullopt, false).has_value());
  EXPECT_FALSE(vm_->SetIoeventfd(event, 0x100000, 4, std::nullopt, false).has_value());
}

TEST_F(VcpuTest, MissingCapabilityIsNamed) {
  auto required = kvm_->Require({{1 << 20, "KVM_CAP_OF_TOMORROW"}});
  ASSERT_FALSE(required.has_value());
  EXPECT_EQ(required.error().code(), Code::kFailedPrecondition);
  EXPECT_NE(required.error().message().find("KVM_CAP_OF_TOMORROW"), std::string::npos);
}

}  // namespace
}  // namespace wyvern::kvm
