// A window of files before a guest of a few instructions: where it is, and what becomes of who touches what is not there.
#include "machine/window_slot.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kvm/kvm.h"
#include "kvm/probe_guest.h"
#include "machine/vcpu_thread.h"

namespace wyvern::machine {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;

constexpr uint64_t kReaderCode = 0x4000;
constexpr mem::Gpa kPlace{0x100000};
constexpr mem::Gpa kOtherPlace{0x400000};
constexpr uint64_t kWindowSize = 2ULL << 20U;
constexpr uint64_t kFilePages = 4096;
constexpr const char* kInterpreted =
    "this KVM interprets the guest: to it memory that is not there is MMIO";

class PortHandler : public ExitHandler {
 public:
  void OnPort(const kvm::Exit& exit) override { seen = static_cast<int>(exit.data[0]); }

  void OnMmio(const kvm::Exit& exit) override {
    exit.data[0] = std::byte{'-'};  // as a bus with nothing there, but seen
    ++mmio;
  }

  void OnEndOfInterrupt(uint8_t) override {}

  bool OnSystemEvent(uint64_t) override { return false; }

  void OnFault(const kvm::Vcpu&, const std::string& what) override {
    const std::lock_guard lock(mu);
    fault = what;
  }

  std::string Fault() {
    const std::lock_guard lock(mu);
    return fault;
  }

  std::atomic<int> seen{0};
  std::atomic<int> mmio{0};
  std::mutex mu;
  std::string fault;
};

class WindowSlotTest : public testing::Test {
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
    // 1: mov al, [0x100000]; out 0x10, al; jmp 1b
    uint64_t at = kReaderCode;
    for (const unsigned byte : {0x8a, 0x04, 0x25, 0x00, 0x00, 0x10, 0x00, 0xe6, 0x10, 0xeb, 0xf5}) {
      ASSERT_TRUE(memory_->Write<uint8_t>(mem::Gpa{at++}, static_cast<uint8_t>(byte)).has_value());
    }
    file_ = *MakeMemfd("file", kFilePages);
    ASSERT_EQ(::pwrite(file_.get(), "f", 1, 0), 1);
    slot_ = std::make_unique<WindowSlot>(*vm_, 1, window_);
  }

  void TearDown() override {
    threads_.reset();
    slot_.reset();
  }

  void Run() {
    auto vcpu = vm_->CreateVcpu(0);
    ASSERT_TRUE(vcpu.has_value()) << vcpu.error().message();
    ASSERT_TRUE(kvm::SetProbeRegisters(vcpu->fd()).has_value());
    std::vector<kvm::Vcpu> vcpus;
    vcpus.push_back(*std::move(vcpu));
    threads_ = std::make_unique<VcpuThreads>(std::move(vcpus), &handler_, nullptr);
    ASSERT_TRUE(threads_->Start().has_value());
  }

  template <typename Condition>
  static bool Eventually(Condition condition) {
    for (int i = 0; i < 10000 && !condition(); ++i) {
      std::this_thread::sleep_for(milliseconds(1));
    }
    return condition();
  }

  bool Sees(char byte) {
    handler_.seen = 0;
    return Eventually([&] { return handler_.seen == byte; });
  }

  uint64_t Faults() const {
    return threads_->exits()[static_cast<size_t>(kvm::ExitReason::kMemoryFault)];
  }

  // False where this KVM interprets the guest: to its interpreter what cannot be read is MMIO.
  bool MeetsFaults() {
    handler_.mmio = 0;
    EXPECT_TRUE(Eventually([&] { return Faults() > 5 || handler_.mmio > 5; }));
    return Faults() > 5;
  }

  bool Map() { return window_->Map(0, kFilePages, file_, 0, false).has_value(); }

  std::shared_ptr<mem::FileWindow> window_ = *mem::FileWindow::Create(kWindowSize);
  UniqueFd file_;
  PortHandler handler_;
  std::unique_ptr<kvm::Kvm> kvm_;
  std::unique_ptr<kvm::Vm> vm_;
  std::shared_ptr<const mem::GuestMemory> memory_;
  std::unique_ptr<WindowSlot> slot_;
  std::unique_ptr<VcpuThreads> threads_;
};

TEST(MemoryPatienceTest, AccessIsGivenUpAfterHalfASecondWithoutAPause) {
  MemoryPatience patience;
  MemoryPatience::Time now(std::chrono::hours(1));
  int tries = 0;
  while (patience.TryAgain(now)) {
    now += MemoryPatience::kPause;
    ++tries;
  }
  EXPECT_EQ(tries, MemoryPatience::kPatience / MemoryPatience::kPause);
}

TEST(MemoryPatienceTest, ManyShortWaitsAreNotOneLongOne) {
  MemoryPatience patience;
  MemoryPatience::Time now(std::chrono::hours(1));
  for (int i = 0; i < 1000; ++i) {
    EXPECT_TRUE(patience.TryAgain(now));
    EXPECT_TRUE(patience.TryAgain(now + milliseconds(1)));
    now += MemoryPatience::kPause + milliseconds(2);
  }
}

TEST_F(WindowSlotTest, GuestSeesTheFileWhereTheWindowIs) {
  ASSERT_TRUE(Map());
  Run();
  EXPECT_TRUE(Sees('-'));
  slot_->Place(kPlace);
  EXPECT_TRUE(Sees('f'));
  slot_->Place(kOtherPlace);
  EXPECT_TRUE(Sees('-'));
  slot_->Place(kPlace);
  EXPECT_TRUE(Sees('f'));
  slot_->Place(std::nullopt);
  slot_->Place(std::nullopt);
  EXPECT_TRUE(Sees('-'));
  slot_->Place(kPlace);
  EXPECT_TRUE(Sees('f'));
  slot_.reset();
  EXPECT_TRUE(Sees('-'));
  EXPECT_EQ(handler_.Fault(), "");
}

TEST_F(WindowSlotTest, PlaceThatIsTakenIsNone) {
  ASSERT_TRUE(Map());
  Run();
  slot_->Place(kPlace);
  EXPECT_TRUE(Sees('f'));
  slot_->Place(mem::Gpa{0x1000});  // RAM
  EXPECT_TRUE(Sees('-'));
  slot_->Place(kPlace);
  EXPECT_TRUE(Sees('f'));
}

TEST_F(WindowSlotTest, GuestWaitsForAMappingThatIsBeingReplaced) {
  slot_->Place(kPlace);
  Run();
  if (!MeetsFaults()) {
    GTEST_SKIP() << kInterpreted;
  }
  ASSERT_TRUE(Map());
  EXPECT_TRUE(Sees('f'));
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(window_->Unmap(0, kFilePages).has_value());
    ASSERT_TRUE(Map());
    EXPECT_TRUE(Sees('f'));
  }
  EXPECT_EQ(handler_.Fault(), "");
}

TEST_F(WindowSlotTest, GuestThatTouchesWhatIsNotMappedEndsWithAReason) {
  slot_->Place(kPlace);
  Run();
  if (!MeetsFaults()) {
    GTEST_SKIP() << kInterpreted;
  }
  ASSERT_TRUE(Eventually([&] { return !handler_.Fault().empty(); }));
  EXPECT_THAT(handler_.Fault(), HasSubstr("memory that the host does not have"));
}

TEST_F(WindowSlotTest, FileThatIsCutShortEndsTheGuestNotUs) {
  ASSERT_TRUE(Map());
  slot_->Place(kPlace);
  Run();
  EXPECT_TRUE(Sees('f'));
  ASSERT_EQ(::ftruncate(file_.get(), 0), 0);
  if (!MeetsFaults()) {
    GTEST_SKIP() << kInterpreted;
  }
  ASSERT_TRUE(Eventually([&] { return !handler_.Fault().empty(); }));
  EXPECT_THAT(handler_.Fault(), HasSubstr("memory that the host does not have"));
}

TEST_F(WindowSlotTest, GuestWaitingForMemoryIsPausedAndStopped) {
  slot_->Place(kPlace);
  Run();
  if (!MeetsFaults()) {
    GTEST_SKIP() << kInterpreted;
  }
  threads_->Pause();
  std::this_thread::sleep_for(milliseconds(5));
  threads_->Stop();
  EXPECT_EQ(handler_.Fault(), "");
}

}  // namespace
}  // namespace wyvern::machine
