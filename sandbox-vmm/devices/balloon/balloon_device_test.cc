#include "balloon/balloon_device.h"

#include <mutex>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "balloon/testing/balloon_guest.h"

namespace wyvern::devices {
namespace {

using testing::BalloonGuest;

constexpr uint32_t kPage = BalloonGuest::kPage;
constexpr uint32_t kMiBPages = 256;

void WriteConfig32(BalloonGuest& guest, uint32_t offset, uint32_t value) {
  const Le32 wire(value);
  guest.rig().core().WriteConfig(offset, std::as_bytes(std::span(&wire, 1)));
}

uint32_t HintCommand(BalloonGuest& guest) {
  return guest.rig().Config<Le32>(8);
}

// --- Configuration ---

TEST(BalloonDeviceTest, ConfigurationTellsTheTargetAndTakesActual) {
  BalloonGuest guest;
  ASSERT_TRUE(guest.device().SetTarget(uint64_t{5} << 20U));
  EXPECT_EQ(guest.rig().Config<Le32>(0), 5 * kMiBPages);
  WriteConfig32(guest, 4, 3 * kMiBPages);
  EXPECT_EQ(guest.device().actual(), uint64_t{3} << 20U);
  EXPECT_EQ(guest.rig().Config<Le32>(4), 3 * kMiBPages);
}

TEST(BalloonDeviceTest, TargetIsWholePagesThatFitTheField) {
  BalloonGuest guest;
  EXPECT_EQ(guest.device().SetTarget(4095).error().code(), Code::kInvalidArgument);
  EXPECT_EQ(guest.device().SetTarget(uint64_t{1} << 44U).error().code(), Code::kInvalidArgument);
  EXPECT_TRUE(guest.device().SetTarget((uint64_t{1} << 44U) - 4096));
}

TEST(BalloonDeviceTest, NewTargetInterruptsTheDriver) {
  BalloonGuest guest;
  guest.rig().Start();
  const uint64_t before = guest.rig().interrupt().config_signals();
  ASSERT_TRUE(guest.device().SetTarget(4096));
  EXPECT_EQ(guest.rig().interrupt().config_signals(), before + 1);
}

TEST(BalloonDeviceTest, TargetOfAPausedDeviceIsToldWhenItGoesOn) {
  BalloonGuest guest;
  guest.rig().Start();
  const uint64_t before = guest.rig().interrupt().config_signals();
  (void)guest.rig().core().Pause();
  ASSERT_TRUE(guest.device().SetTarget(8192));
  EXPECT_EQ(guest.rig().interrupt().config_signals(), before);
  ASSERT_TRUE(guest.rig().core().Resume());
  EXPECT_EQ(guest.rig().interrupt().config_signals(), before + 1);
}

TEST(BalloonDeviceTest, OnlyActualAndPoisonAreTheDrivers) {
  BalloonGuest guest;
  ASSERT_TRUE(guest.device().SetTarget(4096));
  WriteConfig32(guest, 0, 77);
  WriteConfig32(guest, 8, 77);
  WriteConfig32(guest, 12, 0xaaaaaaaa);
  EXPECT_EQ(guest.rig().Config<Le32>(0), 1U);
  EXPECT_EQ(HintCommand(guest), 0U);
  EXPECT_EQ(guest.rig().Config<Le32>(12), 0xaaaaaaaaU);
}

TEST(BalloonDeviceTest, FeaturesAreOfferedAsAsked) {
  EXPECT_EQ(BalloonGuest().device().traits().features & 0x3fU, 0x3fU);
  BalloonOptions options;
  options.deflate_on_oom = false;
  options.page_reporting = false;
  BalloonGuest guest(std::move(options));
  EXPECT_EQ(guest.device().traits().features & 0x3fU, 0x1bU);
  EXPECT_EQ(guest.device().traits().queue_sizes.size(), 4U);
}

// --- Pages ---

TEST(BalloonDeviceTest, InflatedPagesGoBackToTheHostInOneCall) {
  BalloonGuest guest;
  guest.rig().Start();
  guest.Fill(kPage - 1, 258);
  const uint64_t before = guest.HostPages();
  guest.Send(BalloonGuest::kInflate, BalloonGuest::Numbers(BalloonGuest::Run(kPage, 256)));
  EXPECT_LE(guest.HostPages(), before - 256);
  EXPECT_EQ(guest.rig().counter("host_calls"), 1U);
  EXPECT_EQ(guest.rig().counter("freed_pages"), 256U);
  EXPECT_TRUE(guest.Freed(kPage) && guest.Freed(kPage + 255));
  EXPECT_FALSE(guest.Freed(kPage - 1) || guest.Freed(kPage + 256));
}

TEST(BalloonDeviceTest, InflateChangesPagesOnlyBeforeItsAcknowledgement) {
  // VIRTIO §5.5.6.2
  BalloonGuest guest;
  guest.rig().Start();
  guest.Fill(kPage, 1);
  guest.Send(BalloonGuest::kInflate, BalloonGuest::Numbers({kPage}));
  EXPECT_TRUE(guest.Freed(kPage));
  guest.Fill(kPage, 1);
  guest.Send(BalloonGuest::kDeflate, BalloonGuest::Numbers({kPage}));
  guest.Send(BalloonGuest::kInflate, BalloonGuest::Numbers({kPage + 1}));
  EXPECT_FALSE(guest.Freed(kPage));
  EXPECT_EQ(guest.rig().counter("deflated_pages"), 1U);
}

// Memory that virtio-mem plugged: the device is not stopped for it.
TEST(BalloonDeviceTest, PagesOfMemoryThatWasAddedGoBackToTheHost) {
  BalloonGuest guest;
  guest.rig().Start();
  const mem::Gpa added{uint64_t{1} << 32U};
  mem::RegionSpec spec;
  spec.start = added;
  spec.size = 1 << 20;
  spec.guest_ram = true;
  const auto memory = *guest.rig().ram().memory()->WithRegion(std::move(spec));
  ASSERT_TRUE(memory->Write(added, 'g').has_value());
  ASSERT_TRUE(guest.rig().core().GrowMemory(memory));
  guest.Send(BalloonGuest::kInflate, BalloonGuest::Numbers({1 << 20}));
  EXPECT_EQ(guest.rig().counter("freed_pages"), 1U);
  EXPECT_EQ(memory->Read<char>(added).value_or('?'), 0);
}

TEST(BalloonDeviceTest, DriverWithoutMustTellHostIsServed) {
  // VIRTIO §5.5.3.2: a device may refuse such a driver; this one needs to be told nothing.
  BalloonGuest guest;
  guest.rig().Start(uint64_t{1} << 0);
  guest.Fill(kPage, 1);
  guest.Send(BalloonGuest::kInflate, BalloonGuest::Numbers({kPage}));
  EXPECT_TRUE(guest.Freed(kPage));
  guest.Fill(kPage, 1);  // used again before the device is told
  guest.Send(BalloonGuest::kDeflate, BalloonGuest::Numbers({kPage}));
  EXPECT_FALSE(guest.Freed(kPage));
}

TEST(BalloonDeviceTest, ReportedPagesGoBackToTheHost) {
  BalloonGuest guest;
  guest.rig().Start();
  guest.Fill(kPage, 4 * kMiBPages);
  const uint64_t before = guest.HostPages();
  // Three blocks, two of them side by side and out of order: two calls.
  guest.Offer(BalloonGuest::kReports, {{BalloonGuest::At(kPage + kMiBPages), 1 << 20},
                                       {BalloonGuest::At(kPage + 3 * kMiBPages), 1 << 20},
                                       {BalloonGuest::At(kPage), 1 << 20}});
  EXPECT_LE(guest.HostPages(), before - uint64_t{3} * kMiBPages);
  EXPECT_EQ(guest.rig().counter("host_calls"), 2U);
  EXPECT_EQ(guest.rig().counter("reported_pages"), 3U * kMiBPages);
  EXPECT_FALSE(guest.Freed(kPage + 2 * kMiBPages));
}

TEST(BalloonDeviceTest, ReportedPagesChangeOnlyBeforeTheAcknowledgement) {
  // VIRTIO §5.5.6.7.2
  BalloonGuest guest;
  guest.rig().Start();
  guest.Fill(kPage, 1);
  guest.Offer(BalloonGuest::kReports, {{BalloonGuest::At(kPage), 4096}});
  EXPECT_TRUE(guest.Freed(kPage));
  guest.Fill(kPage, 1);
  guest.Offer(BalloonGuest::kReports, {{BalloonGuest::At(kPage + 1), 4096}});
  EXPECT_FALSE(guest.Freed(kPage));
}

TEST(BalloonDeviceTest, ReportedPagesWithPoisonKeepIt) {
  // VIRTIO §5.5.6.7.2: nothing but poison_val may come in place of it, and freed pages are zero.
  BalloonGuest guest;
  guest.rig().Prepare();
  WriteConfig32(guest, 12, 0x67676767);
  guest.rig().DriverOk();
  guest.Fill(kPage, 1);
  guest.Offer(BalloonGuest::kReports, {{BalloonGuest::At(kPage), 4096}});
  EXPECT_FALSE(guest.Freed(kPage));
  EXPECT_EQ(guest.rig().counter("reports_kept"), 1U);
  EXPECT_EQ(guest.rig().counter("host_calls"), 0U);
}

TEST(BalloonDeviceTest, ReportedPagesWithPoisonOfZeroAreFreed) {
  // VIRTIO §5.5.6.6.2: the value is a hint that may be used.
  BalloonGuest guest;
  guest.rig().Start();
  guest.Fill(kPage, 1);
  guest.Offer(BalloonGuest::kReports, {{BalloonGuest::At(kPage), 4096}});
  EXPECT_TRUE(guest.Freed(kPage));
}

TEST(BalloonDeviceTest, PoisonThatWasNotNegotiatedDoesNotCount) {
  BalloonGuest guest;
  guest.rig().Prepare(uint64_t{1} << 4);
  WriteConfig32(guest, 12, 0x67676767);
  guest.rig().DriverOk();
  guest.Fill(kPage, 1);
  guest.Offer(BalloonGuest::kReports, {{BalloonGuest::At(kPage), 4096}});
  EXPECT_TRUE(guest.Freed(kPage));
}

// --- Statistics ---

TEST(BalloonDeviceTest, StatisticsComeInAnyOrderAndUnknownOnesAreIgnored) {
  // VIRTIO §5.5.6.3.2
  BalloonGuest guest;
  guest.rig().Start();
  EXPECT_EQ(guest.device().stats().updates, 0U);
  guest.SendStats(BalloonGuest::Stat(9, 90) + BalloonGuest::Stat(0x7777, 1) +
                  BalloonGuest::Stat(4, uint64_t{40} << 32U) + BalloonGuest::Stat(15, 150) +
                  BalloonGuest::Stat(0, 7));
  const BalloonStats stats = guest.device().stats();
  EXPECT_EQ(stats.updates, 1U);
  EXPECT_EQ(stats.value(BalloonTag::kHugetlbFailed), 90U);
  EXPECT_EQ(stats.value(BalloonTag::kFree), uint64_t{40} << 32U);
  EXPECT_EQ(stats.value(BalloonTag::kDirectReclaim), 150U);
  EXPECT_EQ(stats.value(BalloonTag::kSwapIn), 7U);
  EXPECT_FALSE(stats.value(BalloonTag::kTotal));
  EXPECT_EQ(guest.rig().counter("stats_ignored"), 1U);
}

TEST(BalloonDeviceTest, EveryStatisticHasANameOfItsOwn) {
  std::set<std::string> names;
  for (uint16_t tag = 0; tag < BalloonStats::kTags; ++tag) {
    names.insert(BalloonTagName(static_cast<BalloonTag>(tag)));
  }
  EXPECT_EQ(names.size(), BalloonStats::kTags);
  EXPECT_STREQ(BalloonTagName(static_cast<BalloonTag>(16)), "unknown");
}

TEST(BalloonDeviceTest, StatisticsBufferStaysUntilTheOwnerAsks) {
  BalloonGuest guest;
  guest.rig().Start();
  guest.SendStats(BalloonGuest::Stat(5, 1));
  EXPECT_FALSE(guest.rig().WaitMaybe(BalloonGuest::kStats, std::chrono::milliseconds(20)));
  guest.device().RequestStats();
  EXPECT_EQ(guest.rig().WaitUsed(BalloonGuest::kStats).written, 0U);
  guest.SendStats(BalloonGuest::Stat(5, 2));
  EXPECT_EQ(guest.device().stats().value(BalloonTag::kTotal), 2U);
}

TEST(BalloonDeviceTest, StatisticsAreAskedForEachInterval) {
  BalloonGuest guest;
  guest.rig().Start();
  guest.device().SetStatsInterval(std::chrono::milliseconds(5));
  for (uint64_t round = 0; round < 3; ++round) {
    guest.SendStats(BalloonGuest::Stat(4, round));
    guest.rig().WaitUsed(BalloonGuest::kStats);
  }
  guest.device().SetStatsInterval(std::chrono::milliseconds(0));
  guest.SendStats(BalloonGuest::Stat(4, 9));
  // What a timer that was already due could still take, is taken; then nothing asks.
  (void)guest.rig().WaitMaybe(BalloonGuest::kStats, std::chrono::milliseconds(20));
  EXPECT_GE(guest.device().stats().updates, 4U);
}

TEST(BalloonDeviceTest, StatisticsBufferSurvivesAPause) {
  BalloonGuest guest;
  guest.rig().Start();
  guest.SendStats(BalloonGuest::Stat(5, 1));
  (void)guest.rig().core().Pause();
  guest.device().RequestStats();
  ASSERT_TRUE(guest.rig().core().Resume());
  EXPECT_FALSE(guest.rig().WaitMaybe(BalloonGuest::kStats, std::chrono::milliseconds(20)));
  guest.device().RequestStats();
  guest.rig().WaitUsed(BalloonGuest::kStats);
  EXPECT_EQ(guest.device().stats().updates, 1U);
}

// --- Hints ---

struct Heard {
  std::mutex mu;
  std::vector<std::pair<uint32_t, HintedRange>> hints;  // guarded by mu
  std::vector<uint32_t> ends;                           // guarded by mu

  size_t hint_count() {
    const std::lock_guard lock(mu);
    return hints.size();
  }

  size_t end_count() {
    const std::lock_guard lock(mu);
    return ends.size();
  }

  BalloonOptions Options() {
    BalloonOptions options;
    options.on_hints = [this](uint32_t command, std::span<const HintedRange> pages) {
      const std::lock_guard lock(mu);
      for (const HintedRange& range : pages) {
        hints.emplace_back(command, range);
      }
    };
    options.on_hints_end = [this](uint32_t command) {
      const std::lock_guard lock(mu);
      ends.push_back(command);
    };
    return options;
  }
};

TEST(BalloonHintTest, RoundTellsTheOwnerWhatIsFreeAndLeavesThePages) {
  Heard heard;
  BalloonGuest guest(heard.Options());
  guest.rig().Start();
  EXPECT_EQ(HintCommand(guest), kHintStop);
  const uint64_t signals = guest.rig().interrupt().config_signals();
  const uint32_t command = *guest.device().StartHinting();
  EXPECT_GE(command, kFirstHintCommand);
  EXPECT_EQ(HintCommand(guest), command);
  EXPECT_EQ(guest.rig().interrupt().config_signals(), signals + 1);
  guest.Fill(kPage, kMiBPages);
  guest.Send(BalloonGuest::kHints, BalloonGuest::Numbers({command}));
  guest.Offer(BalloonGuest::kHints, {{BalloonGuest::At(kPage), 1 << 20}});
  guest.Send(BalloonGuest::kHints, BalloonGuest::Numbers({kHintStop}));
  ASSERT_TRUE(testing::WaitUntil([&] { return heard.end_count() == 1; }));
  ASSERT_EQ(heard.hints.size(), 1U);
  EXPECT_EQ(heard.hints[0].first, command);
  EXPECT_EQ(heard.hints[0].second.start, BalloonGuest::At(kPage));
  EXPECT_EQ(heard.hints[0].second.length, 1U << 20U);
  EXPECT_EQ(heard.ends[0], command);
  // The guest may have written to them meanwhile: that would be lost.
  EXPECT_FALSE(guest.Freed(kPage));
  EXPECT_EQ(guest.rig().counter("host_calls"), 0U);
}

TEST(BalloonHintTest, FinishedHintingReportsDoneAndStoppedReportsStop) {
  // VIRTIO §5.5.6.5.2: STOP where hints are of no use now, DONE where they are no longer needed.
  BalloonGuest guest;
  guest.rig().Start();
  ASSERT_TRUE(guest.device().StartHinting());
  guest.device().StopHinting();
  EXPECT_EQ(HintCommand(guest), kHintStop);
  const uint64_t signals = guest.rig().interrupt().config_signals();
  guest.device().FinishHinting();
  EXPECT_EQ(HintCommand(guest), kHintDone);
  EXPECT_EQ(guest.rig().interrupt().config_signals(), signals + 1);
}

TEST(BalloonHintTest, PagesOfAnotherCommandAreIgnored) {
  // VIRTIO §5.5.6.5.2
  Heard heard;
  BalloonGuest guest(heard.Options());
  guest.rig().Start();
  const uint32_t first = *guest.device().StartHinting();
  guest.Offer(BalloonGuest::kHints, {{BalloonGuest::At(kPage), 4096}});  // before any command
  guest.Send(BalloonGuest::kHints, BalloonGuest::Numbers({first}));
  const uint32_t second = *guest.device().StartHinting();
  guest.Offer(BalloonGuest::kHints, {{BalloonGuest::At(kPage + 1), 4096}});  // still the first's
  guest.device().FinishHinting();
  guest.Send(BalloonGuest::kHints, BalloonGuest::Numbers({second}));
  guest.Offer(BalloonGuest::kHints, {{BalloonGuest::At(kPage + 2), 4096}});  // after DONE
  EXPECT_EQ(guest.rig().counter("hints_ignored"), 3U);
  EXPECT_EQ(heard.hint_count(), 0U);
}

TEST(BalloonHintTest, CommandIdsAreNotUsedAgainBeforeTheDriversStop) {
  // VIRTIO §5.5.6.5.2
  BalloonOptions options;
  options.resume = BalloonState{.last_hint_command = 0xfffffffe};
  BalloonGuest guest(std::move(options));
  guest.rig().Start();
  EXPECT_EQ(*guest.device().StartHinting(), 0xffffffffU);
  EXPECT_EQ(guest.device().StartHinting().error().code(), Code::kFailedPrecondition);
  EXPECT_EQ(HintCommand(guest), 0xffffffffU);
  guest.Send(BalloonGuest::kHints, BalloonGuest::Numbers({0xffffffff}));
  guest.Send(BalloonGuest::kHints, BalloonGuest::Numbers({kHintStop}));
  EXPECT_EQ(*guest.device().StartHinting(), kFirstHintCommand);
}

TEST(BalloonHintTest, ResetEndsARoundThatHasBegun) {
  Heard heard;
  BalloonGuest guest(heard.Options());
  guest.rig().Start();
  const uint32_t command = *guest.device().StartHinting();
  guest.Send(BalloonGuest::kHints, BalloonGuest::Numbers({command}));
  guest.rig().core().WriteStatus(0);
  EXPECT_EQ(heard.end_count(), 1U);
  EXPECT_EQ(HintCommand(guest), kHintStop);
}

TEST(BalloonHintTest, CommandThatNoDriverHasSeenWaitsForOne) {
  BalloonGuest guest;
  const uint32_t command = *guest.device().StartHinting();
  guest.rig().Start();
  EXPECT_EQ(HintCommand(guest), command);
}

// --- State ---

TEST(BalloonDeviceTest, StateComesBackInANewDevice) {
  BalloonGuest guest;
  guest.rig().Start();
  ASSERT_TRUE(guest.device().SetTarget(uint64_t{4} << 20U));
  WriteConfig32(guest, 4, 17);
  WriteConfig32(guest, 12, 5);
  const uint32_t command = *guest.device().StartHinting();
  guest.Send(BalloonGuest::kHints, BalloonGuest::Numbers({command}));
  (void)guest.rig().core().Pause();
  BalloonOptions options;
  options.resume = guest.device().state();
  BalloonGuest restored(std::move(options));
  EXPECT_EQ(restored.rig().Config<Le32>(0), 4 * kMiBPages);
  EXPECT_EQ(restored.rig().Config<Le32>(4), 17U);
  EXPECT_EQ(HintCommand(restored), command);
  EXPECT_EQ(restored.rig().Config<Le32>(12), 5U);
  EXPECT_EQ(restored.device().state().driver_hint_command, command);
}

TEST(BalloonDeviceTest, StateOfAnotherVersionIsRefused) {
  BalloonOptions options;
  options.resume = BalloonState{.version = 2};
  EXPECT_EQ(BalloonDevice::Create(std::move(options)).error().code(), Code::kInvalidArgument);
}

TEST(BalloonDeviceTest, ThreadStartsWithItsHook) {
  std::string kind;
  BalloonOptions options;
  options.worker = {.name = "balloon", .on_thread_start = [&](const char* k) { kind = k; }};
  auto device = BalloonDevice::Create(std::move(options));
  ASSERT_TRUE(device);
  device->reset();
  EXPECT_EQ(kind, "worker");
}

}  // namespace
}  // namespace wyvern::devices
