#include "volume/volume_watch.h"

#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <thread>

#include "base/testing/must.h"
#include "volume/testing/kubelet_volume.h"

namespace wyvern::runtime {
namespace {

using std::chrono::milliseconds;

class VolumeWatchTest : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    char name[] = "/tmp/wyvern-watch-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    dir_ = name;
    loop_ = Must(LoopThread::Start("test-loop"));
    watch_ = std::make_unique<VolumeWatch>(
        *loop_, [this] { ++calls_; }, GetParam());
  }

  void TearDown() override {
    watch_.reset();
    std::filesystem::remove_all(dir_);
  }

  bool Called(int times) const {
    for (int i = 0; i < 300 && calls_ < times; ++i) {
      std::this_thread::sleep_for(milliseconds(10));
    }
    return calls_ >= times;
  }

  std::string dir_;
  std::atomic<int> calls_{0};
  std::unique_ptr<LoopThread> loop_;
  std::unique_ptr<VolumeWatch> watch_;
};

TEST_P(VolumeWatchTest, ASwapIsToldUntilItIsRemoved) {
  KubeletVolume a(dir_ + "/a");
  KubeletVolume b(dir_ + "/b");
  a.Write({{"k", "1"}});
  b.Write({{"k", "1"}});
  watch_->Add(a.path());
  watch_->Add(b.path());
  a.Write({{"k", "2"}});
  EXPECT_TRUE(Called(1));
  const int before = calls_;
  b.Write({{"k", "2"}});
  EXPECT_TRUE(Called(before + 1));
  watch_->Remove(a.path());
  watch_->Remove(b.path());
  std::this_thread::sleep_for(milliseconds(100));
  const int after = calls_;
  a.Write({{"k", "3"}});
  std::this_thread::sleep_for(kVolumePoll + milliseconds(300));
  EXPECT_EQ(calls_, after);
}

TEST_P(VolumeWatchTest, WhatGoesDoesNoHarm) {
  KubeletVolume a(dir_ + "/a");
  watch_->Add(a.path());
  watch_->Add(dir_ + "/none");
  std::filesystem::remove_all(a.path());
  watch_->CallLater(milliseconds(10));
  EXPECT_TRUE(Called(1));
  watch_->Remove(a.path());
  watch_->Remove(dir_ + "/none");
  watch_->Remove(dir_ + "/never");
}

INSTANTIATE_TEST_SUITE_P(InotifyAndWithout, VolumeWatchTest, testing::Bool(),
                         [](const auto& info) { return info.param ? "Inotify" : "Polled"; });

TEST(VolumeWatchManyTest, ManyEventsAreFewCalls) {
  char name[] = "/tmp/wyvern-watch-XXXXXX";
  ASSERT_NE(mkdtemp(name), nullptr);
  auto loop = Must(LoopThread::Start("test-loop"));
  std::atomic<int> calls{0};
  const auto begin = std::chrono::steady_clock::now();
  {
    VolumeWatch watch(*loop, [&] { ++calls; });
    watch.Add(name);
    for (int i = 0; i < 2000; ++i) {
      ASSERT_TRUE(WriteFile(std::string(name) + "/f" + std::to_string(i), "").has_value());
    }
    std::this_thread::sleep_for(milliseconds(300));
  }
  EXPECT_GE(calls, 1);
  // One for each time of settling, however long a busy machine took to write.
  EXPECT_LE(calls, (std::chrono::steady_clock::now() - begin) / kVolumeSettles + 1);
  std::filesystem::remove_all(name);
}

}  // namespace
}  // namespace wyvern::runtime
