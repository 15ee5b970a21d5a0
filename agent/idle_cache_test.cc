#include "agent/idle_cache.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <thread>

namespace wyvern::agent {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

class IdleCacheTest : public testing::Test {
 protected:
  void SetUp() override {
    dir_ = testing::TempDir() + "wyvern_idle_cache_XXXXXX";
    ASSERT_NE(mkdtemp(dir_.data()), nullptr);
  }

  void TearDown() override {
    cache_.reset();
    std::filesystem::remove_all(dir_);
  }

  // A control group with 1 GiB of page cache.
  std::string MakeGroup(const std::string& name, const std::string& limit) {
    std::string group = dir_ + "/" + name;
    std::filesystem::create_directory(group);
    Write(group + "/memory.stat", "inactive_file 1073741824\n");
    Write(group + "/memory.max", limit + "\n");
    Write(group + "/memory.reclaim", "");
    return group;
  }

  static void Write(const std::string& path, const std::string& text) {
    ASSERT_TRUE(WriteFile(path, text));
  }

  void Start(v1::CacheReclaim mode) {
    cache_.emplace(milliseconds(2));
    cache_->Start(mode);
  }

  static bool IsTaken(const std::string& group) {
    return !ReadFile(group + "/memory.reclaim").value_or("").empty();
  }

  static bool Becomes(const std::function<bool()>& condition) {
    for (const auto end = steady_clock::now() + std::chrono::seconds(20);
         !condition() && steady_clock::now() < end;) {
      std::this_thread::sleep_for(milliseconds(1));
    }
    return condition();
  }

  std::string dir_;
  std::optional<IdleCache> cache_;
};

TEST_F(IdleCacheTest, OnlyContainersWithALimitAreTakenFromUntilALimitComes) {
  const std::string limited = MakeGroup("limited", "536870912");
  const std::string other = MakeGroup("other", "max");
  Start(v1::CACHE_RECLAIM_LIMITED);
  cache_->Add("other", other);
  cache_->Add("limited", limited);
  EXPECT_TRUE(Becomes([&] { return IsTaken(limited); }));
  EXPECT_FALSE(IsTaken(other));
  Write(other + "/memory.max", "1073741824\n");
  EXPECT_TRUE(Becomes([&] { return IsTaken(other); }));
}

TEST_F(IdleCacheTest, AlwaysIsWithoutALimitToo) {
  const std::string group = MakeGroup("group", "max");
  Start(v1::CACHE_RECLAIM_ALWAYS);
  cache_->Add("group", group);
  EXPECT_TRUE(Becomes([&] { return IsTaken(group); }));
}

TEST_F(IdleCacheTest, NeverAndUnknownModesTakeNothing) {
  const std::string group = MakeGroup("group", "1");
  for (const int mode : {static_cast<int>(v1::CACHE_RECLAIM_NEVER), 77}) {
    Start(static_cast<v1::CacheReclaim>(mode));
    cache_->Add("group", group);
    std::this_thread::sleep_for(milliseconds(20));
    EXPECT_FALSE(IsTaken(group));
  }
}

TEST_F(IdleCacheTest, ContainersThatGoDisturbNobody) {
  const std::string group = MakeGroup("group", "1");
  const std::string gone = MakeGroup("gone", "1");
  Start(v1::CACHE_RECLAIM_LIMITED);
  cache_->Add("gone", gone);
  cache_->Add("removed", dir_ + "/removed");
  cache_->Remove("removed");
  cache_->Remove("never there");
  std::filesystem::remove_all(gone);
  cache_->Add("group", group);
  EXPECT_TRUE(Becomes([&] { return IsTaken(group); }));
}

TEST_F(IdleCacheTest, KernelThatCannotIsAskedOnce) {
  const std::string group = MakeGroup("group", "1");
  std::filesystem::remove(group + "/memory.reclaim");
  Start(v1::CACHE_RECLAIM_LIMITED);
  cache_->Add("group", group);
  std::this_thread::sleep_for(milliseconds(50));
  Write(group + "/memory.reclaim", "");
  std::this_thread::sleep_for(milliseconds(20));
  EXPECT_FALSE(IsTaken(group));
}

}  // namespace
}  // namespace wyvern::agent
