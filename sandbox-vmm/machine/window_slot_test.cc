// A window of files before a guest of a few instructions: where it is, and what becomes of who touches what is not there.
#include "machine/window_slot.h"

#include <unistd.h>

#include <chrono>
#include <memory>
#include <optional>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "machine/testing/probe_machine.h"

namespace wyvern::machine {
namespace {

using std::chrono::milliseconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr mem::Gpa kPlace{0x100000};
constexpr mem::Gpa kOtherPlace{0x400000};
constexpr uint64_t kWindowSize = 2ULL << 20U;
constexpr uint64_t kFilePages = 4096;
constexpr const char* kInterpreted =
    "this KVM interprets the guest: to it memory that is not there is MMIO";

class WindowSlotTest : public testing::ProbeMachineTest {
 protected:
  void Prepare() override {
    ASSERT_NO_FATAL_FAILURE(ProbeMachineTest::Prepare());
    // 1: mov al, [0x100000]; out 0x10, al; jmp 1b
    Load({0x8a, 0x04, 0x25, 0x00, 0x00, 0x10, 0x00, 0xe6, 0x10, 0xeb, 0xf5});
    file_ = *MakeMemfd("file", kFilePages);
    ASSERT_EQ(::pwrite(file_.get(), "f", 1, 0), 1);
    slot_ = std::make_unique<WindowSlot>(*vm_, 1, window_);
  }

  void Run() {
    MakeThreads(1);
    ASSERT_TRUE(threads_->Start(1).has_value());
  }

  bool Sees(char byte) {
    handler_.last_byte = 0;
    return Eventually([&] { return handler_.last_byte == byte; });
  }

  uint64_t Faults() const { return ExitsBy(kvm::ExitReason::kMemoryFault); }

  // False where this KVM interprets the guest: to its interpreter what cannot be read is MMIO.
  bool MeetsFaults() {
    handler_.mmio = 0;
    EXPECT_TRUE(Eventually([&] { return Faults() > 5 || handler_.mmio > 5; }));
    return Faults() > 5;
  }

  bool Map() { return window_->Map(0, kFilePages, file_, 0, false).has_value(); }

  std::shared_ptr<mem::FileWindow> window_ = *mem::FileWindow::Create(kWindowSize);
  UniqueFd file_;
  std::unique_ptr<WindowSlot> slot_;
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
  EXPECT_THAT(handler_.Faults(), IsEmpty());
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
  EXPECT_THAT(handler_.Faults(), IsEmpty());
}

TEST_F(WindowSlotTest, GuestThatTouchesWhatIsNotMappedEndsWithAReason) {
  slot_->Place(kPlace);
  Run();
  if (!MeetsFaults()) {
    GTEST_SKIP() << kInterpreted;
  }
  ASSERT_TRUE(Eventually([&] { return !handler_.Faults().empty(); }));
  EXPECT_THAT(handler_.Faults(), ElementsAre(HasSubstr("memory that the host does not have")));
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
  ASSERT_TRUE(Eventually([&] { return !handler_.Faults().empty(); }));
  EXPECT_THAT(handler_.Faults(), ElementsAre(HasSubstr("memory that the host does not have")));
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
  EXPECT_THAT(handler_.Faults(), IsEmpty());
}

}  // namespace
}  // namespace wyvern::machine
