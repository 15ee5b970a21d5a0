// Guests that break the rules of the balloon.
#include <fcntl.h>

#include <array>
#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "balloon/testing/balloon_guest.h"

namespace wyvern::devices {
namespace {

using testing::BalloonGuest;
using virtio::testing::GuestRam;
using virtio::testing::kNext;

constexpr uint64_t kHalf = testing::DeviceRig::kRamSize / 2;
// The first page of the second half of memory.
constexpr uint32_t kBorder = static_cast<uint32_t>((GuestRam::kBase + kHalf) / kBalloonPage);

class BalloonHostileTest : public ::testing::Test {
 protected:
  // The device sees the rig's memory as two regions of the same file, the second one not RAM when
  // `image` says so.
  void SplitMemory(bool image) {
    const mem::GuestMemory& whole = *guest_.rig().ram().memory();
    std::vector<mem::RegionSpec> specs;
    for (uint64_t i = 0; i < 2; ++i) {
      mem::RegionSpec& spec = specs.emplace_back();
      spec.start = mem::Gpa{GuestRam::kBase + i * kHalf};
      spec.size = kHalf;
      const int copy = fcntl(whole.regions()[0].fd.get(), F_DUPFD_CLOEXEC, 3);
      spec.fd = UniqueFd(copy);
      spec.fd_offset = i * kHalf;
      spec.guest_ram = i == 0 || !image;
    }
    auto split = mem::GuestMemory::Create(std::move(specs));
    ASSERT_TRUE(split);
    guest_.rig().core().SetMemory(*std::move(split));
  }

  void ExpectAlive() {
    EXPECT_EQ(guest_.rig().core().status(), 15);
    guest_.Fill(BalloonGuest::kPage - 8, 1);
    guest_.Send(BalloonGuest::kInflate, BalloonGuest::Numbers({BalloonGuest::kPage - 8}));
    EXPECT_TRUE(guest_.Freed(BalloonGuest::kPage - 8));
  }

  BalloonGuest guest_;
};

TEST_F(BalloonHostileTest, Cve202145464_ConfigurationAccessesPastTheEndTouchNothing) {
  std::array<std::byte, 8> ones;
  ones.fill(std::byte{0xff});
  for (const uint32_t offset : {13U, 15U, 16U, 17U, 4096U, 0x7fffffffU, 0xfffffff8U, 0xffffffffU}) {
    guest_.rig().core().WriteConfig(offset, ones);
    std::array<std::byte, 8> read = ones;
    guest_.rig().core().ReadConfig(offset, read);
    EXPECT_EQ(read[7], std::byte{0}) << offset;
  }
  EXPECT_EQ(guest_.device().actual(), 0U);
  // A wide write over everything changes the driver's two fields only.
  const std::string wide(64, '\x11');
  guest_.rig().core().WriteConfig(0, std::as_bytes(std::span(wide)));
  EXPECT_EQ(guest_.rig().Config<Le32>(0), 0U);
  EXPECT_EQ(guest_.rig().Config<Le32>(4), 0x11111111U);
  EXPECT_EQ(guest_.rig().Config<Le32>(8), 0U);
  EXPECT_EQ(guest_.rig().Config<Le32>(12), 0x11111111U);
}

TEST_F(BalloonHostileTest, Ch326cd8807_ReportedRangeThatCrossesARegionIsRefused) {
  SplitMemory(false);
  guest_.rig().Start();
  guest_.Fill(kBorder - 2, 4);
  guest_.Offer(BalloonGuest::kReports, {{BalloonGuest::At(kBorder - 1), 8192}});
  EXPECT_EQ(guest_.rig().counter("refused_pages"), 2U);
  EXPECT_EQ(guest_.rig().counter("host_calls"), 0U);
  EXPECT_FALSE(guest_.Freed(kBorder - 1) || guest_.Freed(kBorder));
  // Each side by itself is fine, also where the two are reported side by side.
  guest_.Offer(BalloonGuest::kReports,
               {{BalloonGuest::At(kBorder - 1), 4096}, {BalloonGuest::At(kBorder), 4096}});
  EXPECT_EQ(guest_.rig().counter("host_calls"), 2U);
  EXPECT_TRUE(guest_.Freed(kBorder - 1) && guest_.Freed(kBorder));
  EXPECT_FALSE(guest_.Freed(kBorder - 2) || guest_.Freed(kBorder + 1));
}

TEST_F(BalloonHostileTest, MemoryThatIsNoRamIsNeverFreed) {
  SplitMemory(true);
  guest_.rig().Start();
  guest_.Fill(kBorder - 1, 2);
  guest_.Send(BalloonGuest::kInflate, BalloonGuest::Numbers({kBorder, kBorder - 1}));
  guest_.Offer(BalloonGuest::kReports, {{BalloonGuest::At(kBorder), 4096}});
  EXPECT_EQ(guest_.rig().counter("refused_pages"), 2U);
  EXPECT_TRUE(guest_.Freed(kBorder - 1));
  EXPECT_FALSE(guest_.Freed(kBorder));
}

TEST_F(BalloonHostileTest, Fc5794_OversizedStatisticsDoNotStall) {
  guest_.rig().Start();
  // 2 MiB of entries, the first of which count; then the queue goes on as ever.
  std::string entries;
  for (int i = 0; i < 200'000; ++i) {
    entries += BalloonGuest::Stat(4, 1234);
  }
  guest_.SendStats(entries);
  EXPECT_EQ(guest_.device().stats().value(BalloonTag::kFree), 1234U);
  guest_.device().RequestStats();
  guest_.rig().WaitUsed(BalloonGuest::kStats);
  guest_.SendStats(BalloonGuest::Stat(4, 5));
  EXPECT_EQ(guest_.device().stats().value(BalloonTag::kFree), 5U);
  guest_.device().RequestStats();
  guest_.rig().WaitUsed(BalloonGuest::kStats);
}

TEST_F(BalloonHostileTest, Fc5794_RepeatedStatisticsBuffersGoBackAndTheNewestCounts) {
  guest_.rig().Start();
  auto& driver = guest_.rig().queue(BalloonGuest::kStats);
  for (uint64_t i = 0; i < 16; ++i) {
    driver.Build().Readable(BalloonGuest::Stat(4, i)).Submit();
  }
  guest_.rig().KickAlways(BalloonGuest::kStats);
  for (int i = 0; i < 15; ++i) {
    guest_.rig().WaitUsed(BalloonGuest::kStats);
  }
  EXPECT_FALSE(guest_.rig().WaitMaybe(BalloonGuest::kStats, std::chrono::milliseconds(10)));
  EXPECT_EQ(guest_.device().stats().value(BalloonTag::kFree), 15U);
  EXPECT_EQ(guest_.rig().counter("bad_requests"), 15U);
  guest_.device().RequestStats();
  guest_.rig().WaitUsed(BalloonGuest::kStats);
}

TEST_F(BalloonHostileTest, StatisticsOfOddLengthsAreTakenAsFarAsTheyGo) {
  guest_.rig().Start();
  for (const size_t length : {size_t{1}, size_t{9}, size_t{11}, size_t{19}}) {
    guest_.SendStats((BalloonGuest::Stat(4, length) + BalloonGuest::Stat(5, 1)).substr(0, length));
    EXPECT_EQ(guest_.device().stats().value(BalloonTag::kFree).has_value(), length >= 10);
    EXPECT_FALSE(guest_.device().stats().value(BalloonTag::kTotal));
    guest_.device().RequestStats();
    guest_.rig().WaitUsed(BalloonGuest::kStats);
  }
}

TEST_F(BalloonHostileTest, GuestThatNeverAnswersCostsNothing) {
  guest_.rig().Start();
  guest_.device().SetStatsInterval(std::chrono::milliseconds(1));
  guest_.SendStats(BalloonGuest::Stat(4, 1));
  guest_.rig().WaitUsed(BalloonGuest::kStats);
  EXPECT_FALSE(guest_.rig().WaitMaybe(BalloonGuest::kStats, std::chrono::milliseconds(20)));
  EXPECT_EQ(guest_.device().stats().updates, 1U);
  ExpectAlive();
}

TEST_F(BalloonHostileTest, FourGiBOfPageNumbersAreBounded) {
  guest_.rig().Start();
  // 63 descriptors of 15 MiB that all name the same memory: 0.9 GiB of list, of which the first
  // 4096 numbers count. All are page 0, which is no memory.
  auto& driver = guest_.rig().queue(BalloonGuest::kInflate);
  guest_.rig().ram().Fill(BalloonGuest::At(BalloonGuest::kPage), 65536, std::byte{0});
  for (uint16_t i = 0; i < 63; ++i) {
    driver.WriteDescriptor(i, {GuestRam::kBase + (1 << 20), 15 << 20, i == 62 ? uint16_t{0} : kNext,
                               static_cast<uint16_t>(i + 1)});
  }
  driver.MakeAvailable(0);
  guest_.rig().KickAlways(BalloonGuest::kInflate);
  guest_.rig().WaitUsed(BalloonGuest::kInflate);
  EXPECT_EQ(guest_.rig().counter("inflated_pages"), BalloonDevice::kMaxPagesPerChain);
  EXPECT_EQ(guest_.rig().counter("pages_over_limit"),
            63 * (uint64_t{15} << 18U) - BalloonDevice::kMaxPagesPerChain);
  EXPECT_LE(guest_.rig().counter("host_calls"), BalloonDevice::kMaxPagesPerChain);
  EXPECT_EQ(guest_.rig().core().status(), 15);
}

TEST_F(BalloonHostileTest, SamePagesOverAndOverAreOneCall) {
  guest_.rig().Start();
  guest_.Fill(BalloonGuest::kPage, 1);
  guest_.Send(BalloonGuest::kInflate,
              BalloonGuest::Numbers(std::vector<uint32_t>(4096, BalloonGuest::kPage)));
  EXPECT_EQ(guest_.rig().counter("host_calls"), 1U);
  // Overlapping reports: one call for what they cover together.
  std::vector<std::pair<mem::Gpa, uint32_t>> ranges;
  for (uint32_t i = 0; i < 32; ++i) {
    ranges.emplace_back(BalloonGuest::At(BalloonGuest::kPage + i % 4), 8192);
  }
  guest_.Offer(BalloonGuest::kReports, ranges);
  EXPECT_EQ(guest_.rig().counter("host_calls"), 2U);
}

TEST_F(BalloonHostileTest, PagesOutsideMemoryAreRefusedAndTheOthersFreed) {
  guest_.rig().Start();
  guest_.Fill(BalloonGuest::kPage, 1);
  guest_.Send(BalloonGuest::kInflate,
              BalloonGuest::Numbers({0xffffffff, 0, BalloonGuest::kPage, 0x100000, 0x80000000}));
  EXPECT_EQ(guest_.rig().counter("refused_pages"), 4U);
  EXPECT_EQ(guest_.rig().counter("freed_pages"), 1U);
  EXPECT_TRUE(guest_.Freed(BalloonGuest::kPage));
}

TEST_F(BalloonHostileTest, ReportsThatAreNoWholePagesAreRefused) {
  guest_.rig().Start();
  guest_.Fill(BalloonGuest::kPage, 2);
  const mem::Gpa inside{mem::Raw(BalloonGuest::At(BalloonGuest::kPage)) + 1};
  guest_.Offer(BalloonGuest::kReports, {{inside, 4096},
                                        {BalloonGuest::At(BalloonGuest::kPage), 4095},
                                        {BalloonGuest::At(BalloonGuest::kPage), 1}});
  EXPECT_EQ(guest_.rig().counter("host_calls"), 0U);
  EXPECT_FALSE(guest_.Freed(BalloonGuest::kPage) || guest_.Freed(BalloonGuest::kPage + 1));
  ExpectAlive();
}

TEST_F(BalloonHostileTest, BuffersOfTheWrongDirectionComeBackUnused) {
  guest_.rig().Start();
  guest_.Fill(BalloonGuest::kPage, 1);
  guest_.Offer(BalloonGuest::kInflate, {{BalloonGuest::At(BalloonGuest::kPage), 4096}});
  guest_.Offer(BalloonGuest::kDeflate, {{BalloonGuest::At(BalloonGuest::kPage), 4096}});
  guest_.Send(BalloonGuest::kReports, BalloonGuest::Numbers({BalloonGuest::kPage}));
  guest_.Send(BalloonGuest::kInflate, "abc");
  EXPECT_EQ(guest_.rig().counter("bad_requests"), 4U);
  EXPECT_FALSE(guest_.Freed(BalloonGuest::kPage));
  ExpectAlive();
}

TEST_F(BalloonHostileTest, HintCommandsOfTheWrongLengthAreIgnored) {
  guest_.rig().Start();
  const uint32_t command = *guest_.device().StartHinting();
  guest_.Send(BalloonGuest::kHints, BalloonGuest::Numbers({command, command}));
  guest_.Send(BalloonGuest::kHints, "ab");
  guest_.Offer(BalloonGuest::kHints, {{BalloonGuest::At(BalloonGuest::kPage), 4096}});
  EXPECT_EQ(guest_.rig().counter("bad_requests"), 2U);
  EXPECT_EQ(guest_.rig().counter("hints_ignored"), 1U);
}

TEST_F(BalloonHostileTest, QueuesThatWereNotNegotiatedAreLeftAlone) {
  guest_.rig().Start(uint64_t{0x2a});  // no statistics, hints, reports
  guest_.Fill(BalloonGuest::kPage, 1);
  for (const auto queue : {BalloonGuest::kStats, BalloonGuest::kHints, BalloonGuest::kReports}) {
    guest_.rig()
        .queue(queue)
        .Build()
        .WritableAt(BalloonGuest::At(BalloonGuest::kPage), 4096)
        .Submit();
    guest_.rig().KickAlways(queue);
  }
  ExpectAlive();
  EXPECT_FALSE(guest_.rig().WaitMaybe(BalloonGuest::kReports, std::chrono::milliseconds(5)));
  EXPECT_FALSE(guest_.Freed(BalloonGuest::kPage));
}

TEST_F(BalloonHostileTest, GuestThatGivesAwayItsOwnRingsHarmsItselfOnly) {
  guest_.rig().Start();
  const uint64_t first = mem::Raw(guest_.rig().queue(0).config().descriptor_area) / kBalloonPage;
  auto& driver = guest_.rig().queue(BalloonGuest::kInflate);
  driver.Build().Readable(BalloonGuest::Numbers({static_cast<uint32_t>(first)})).Submit();
  guest_.rig().KickAlways(BalloonGuest::kInflate);
  ASSERT_TRUE(testing::WaitUntil([&] { return guest_.rig().counter("freed_pages") == 1; }));
  guest_.rig().Start();
  ExpectAlive();
}

TEST_F(BalloonHostileTest, ScatteredPagesDoNotKeepAPauseWaiting) {
  guest_.rig().Start();
  std::vector<uint32_t> pages;
  for (uint32_t i = 0; i < BalloonDevice::kMaxPagesPerChain; ++i) {
    pages.push_back(kBorder - 1024 + 2 * (i % 1024));
  }
  const std::string numbers = BalloonGuest::Numbers(pages);
  auto& driver = guest_.rig().queue(BalloonGuest::kInflate);
  const mem::Gpa list = guest_.rig().ram().Put(numbers);
  for (int i = 0; i < 64; ++i) {
    driver.Build().ReadableAt(list, static_cast<uint32_t>(numbers.size())).Submit();
  }
  guest_.rig().KickAlways(BalloonGuest::kInflate);
  (void)guest_.rig().core().Pause();  // between two turns, of a chain or two each
  EXPECT_LT(guest_.rig().counter("inflated_pages"), 64U * BalloonDevice::kMaxPagesPerChain);
  ASSERT_TRUE(guest_.rig().core().Resume());
  for (int i = 0; i < 64; ++i) {
    guest_.rig().WaitUsed(BalloonGuest::kInflate);
  }
}

}  // namespace
}  // namespace wyvern::devices
