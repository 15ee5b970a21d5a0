#include "observe/event_log.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

namespace wyvern::observe {
namespace {

TEST(EventLogTest, KeepsTheLastAndNumbersThemAll) {
  EventLog log;
  for (size_t i = 0; i < kKept + 10; ++i) {
    log.Add(EventKind::kOom, "c", std::to_string(i));
  }
  const auto kept = log.Kept();
  ASSERT_EQ(kept.size(), kKept);
  EXPECT_EQ(kept.front().number, 11U);
  EXPECT_EQ(kept.back().number, kKept + 10);
  EXPECT_EQ(kept.back().text, std::to_string(kKept + 9));
  EXPECT_EQ(log.Totals().at(EventKind::kOom), kKept + 10);
}

TEST(EventLogTest, TextsArePlainAndCut) {
  EventLog log;
  log.Add(EventKind::kHotplugFailed, "c\n", "\x1b[2J" + std::string(kMaxEventText, 'x'));
  const auto kept = log.Kept();
  EXPECT_EQ(kept[0].container, "c?");
  EXPECT_EQ(kept[0].text.size(), kMaxEventText);
  EXPECT_TRUE(kept[0].text.starts_with("?[2Jxx"));
}

TEST(EventLogTest, ListenerHearsOfWhatIsKeptAndThenOfEachOnce) {
  EventLog log;
  log.Add(EventKind::kStarted, "", "first");
  std::vector<uint64_t> all;
  std::vector<uint64_t> fresh;
  const uint64_t first = log.Subscribe(true, [&](const Event& e) { all.push_back(e.number); });
  log.Subscribe(false, [&](const Event& e) { fresh.push_back(e.number); });
  log.Add(EventKind::kExited, "c", "0");
  log.Unsubscribe(first);
  log.Unsubscribe(first);
  log.Add(EventKind::kDied, "", "why");
  EXPECT_EQ(all, (std::vector<uint64_t>{1, 2}));
  EXPECT_EQ(fresh, (std::vector<uint64_t>{2, 3}));
}

TEST(EventLogTest, NoGapWhileOthersAdd) {
  EventLog log;
  std::atomic<bool> stop{false};
  std::thread writer([&] {
    while (!stop) {
      log.Add(EventKind::kOom, "c", "");
    }
  });
  for (int round = 0; round < 200; ++round) {
    uint64_t last = 0;
    bool gap = false;
    const uint64_t id = log.Subscribe(true, [&](const Event& e) {
      gap = gap || (last != 0 && e.number != last + 1);
      last = e.number;
    });
    log.Unsubscribe(id);
    EXPECT_FALSE(gap);
  }
  stop = true;
  writer.join();
}

TEST(EventLogTest, EveryKindHasAName) {
  EXPECT_STREQ(EventName(EventKind::kHotplugFailed), "hotplug-failed");
  EXPECT_STREQ(EventName(static_cast<EventKind>(99)), "unknown");
}

}  // namespace
}  // namespace wyvern::observe
