#include "agent/oom_watch.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <vector>

#include "base/fd.h"
#include "base/testing/must.h"

namespace wyvern::agent {
namespace {

using Reach = OomWatch::Reach;

class OomWatchTest : public testing::Test {
 protected:
  OomWatchTest() : loop_(Must(EventLoop::Create())) {
    std::string name = testing::TempDir() + "oom-watch-test-XXXXXX";
    directory_ = mkdtemp(name.data());
    Put(0, 0);
    watch_ = Must(OomWatch::Create(
        *loop_, [this](const std::string& id, Reach reach) { told_.emplace_back(id, reach); }));
    watch_->Add("box", Cgroup(directory_));
  }

  ~OomWatchTest() override {
    watch_.reset();
    std::filesystem::remove_all(directory_);
  }

  void Put(uint64_t limits, uint64_t kills) const {
    const std::string text =
        fmt::format("low 0\nhigh 0\nmax 9\noom {}\noom_kill {}\n", limits, kills);
    EXPECT_TRUE(WriteFile(directory_ + "/memory.events", text));
  }

  using Told = std::vector<std::pair<std::string, Reach>>;

  std::unique_ptr<EventLoop> loop_;
  std::string directory_;
  std::unique_ptr<OomWatch> watch_;
  Told told_;
};

TEST_F(OomWatchTest, LimitThatKillsIsTheContainers) {
  Put(1, 1);
  watch_->Check("box");
  EXPECT_EQ(told_, (Told{{"box", Reach::kContainer}}));
}

TEST_F(OomWatchTest, KillWithoutALimitReachedIsTheGuests) {
  Put(0, 1);
  watch_->Check("box");
  EXPECT_EQ(told_, (Told{{"box", Reach::kGuest}}));
}

TEST_F(OomWatchTest, LimitSeenBeforeItsKillIsStillTheContainers) {
  Put(1, 0);
  watch_->Check("box");
  Put(1, 1);
  watch_->Check("box");
  EXPECT_EQ(told_, (Told{{"box", Reach::kContainer}}));
}

TEST_F(OomWatchTest, AllThatOneEventKillsIsTheContainers) {
  Put(1, 1);
  watch_->Check("box");
  Put(1, 5);
  watch_->Check("box");
  EXPECT_EQ(told_, (Told{{"box", Reach::kContainer}, {"box", Reach::kContainer}}));
}

TEST_F(OomWatchTest, GuestsKillAfterGuestsKillIsAnother) {
  Put(0, 1);
  watch_->Check("box");
  Put(0, 2);
  watch_->Check("box");
  EXPECT_EQ(told_, (Told{{"box", Reach::kGuest}, {"box", Reach::kGuest}}));
}

TEST_F(OomWatchTest, LimitThatKillsNothingIsNoNews) {
  Put(7, 0);
  watch_->Check("box");
  EXPECT_TRUE(told_.empty());
}

TEST_F(OomWatchTest, KernelTellsOfAChange) {
  Put(1, 1);
  for (int i = 0; i < 100 && told_.empty(); ++i) {
    ASSERT_TRUE(loop_->RunOnce(std::chrono::milliseconds(100)));
  }
  EXPECT_EQ(told_, (Told{{"box", Reach::kContainer}}));
}

TEST_F(OomWatchTest, FilesThatGoOrSayNonsenseAreNoNews) {
  EXPECT_TRUE(WriteFile(directory_ + "/memory.events", "oom_kill\n\n oom_kill x\n"));
  watch_->Check("box");
  std::filesystem::remove_all(directory_);
  watch_->Check("box");
  watch_->Remove("box");
  watch_->Check("box");
  EXPECT_TRUE(told_.empty());
}

}  // namespace
}  // namespace wyvern::agent
