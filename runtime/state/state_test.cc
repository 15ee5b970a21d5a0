#include "state/state.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>

#include "base/fd.h"
#include "base/subprocess.h"

namespace wyvern::runtime {
namespace {

SandboxRecord Sample() {
  SandboxRecord record;
  record.ns = "default";
  record.id = "box";
  record.bundle = "/bundle";
  record.owner = *RecordProcess("owner", getpid());
  record.processes = {{"vmm", 123, 456}};
  record.cgroups = {"/sys/fs/cgroup/x", "/sys/fs/cgroup/x/y"};
  record.network = {"/run/netns/p", {2, 5}};
  record.containers["box"] = {"/bundle",
                              0,
                              {"/bundle/rootfs"},
                              {"c0-root"},
                              {{"c0-b0", "/dev/sdb"}},
                              "/sys/fs/cgroup/x/box",
                              {{"anchor", 7, 8}},
                              true};
  return record;
}

class StateTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/wyvern-state-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    dir_ = name;
  }

  void TearDown() override { std::filesystem::remove_all(dir_); }

  std::string dir_;
};

TEST(ParseStateTest, DamagedTextIsDataLoss) {
  for (const char* text : {"", "{}", "[]", "{\"version\":0}", "{\"version\":\"2\"}",
                           "{\"version\":1}", "{\"version\":1,\"namespace\":7}", "\xff"}) {
    auto record = ParseState(text);
    ASSERT_FALSE(record.has_value()) << text;
    EXPECT_EQ(record.error().code(), Code::kDataLoss) << text;
  }
}

TEST(ParseStateTest, EveryTruncationIsError) {
  const std::string text = FormatState(Sample());
  for (size_t n = 0; n + 2 < text.size(); ++n) {
    EXPECT_FALSE(ParseState(text.substr(0, n)).has_value()) << n;
  }
}

TEST(ParseStateTest, RoundTrip) {
  const SandboxRecord record = Sample();
  auto again = ParseState(FormatState(record));
  ASSERT_TRUE(again.has_value()) << again.error().message();
  EXPECT_EQ(FormatState(*again), FormatState(record));
  EXPECT_EQ(again->containers.at("box").processes.at(0).start_time, 8U);
  EXPECT_EQ(again->containers.at("box").disks.at(0).source, "/dev/sdb");
  EXPECT_TRUE(again->containers.at("box").hooked);
}

// What a version wrote is never changed afterwards.
TEST(ParseStateTest, Scenario35_FilesOfEveryVersionAreRead) {
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(WV_STATE_WRITTEN)) {
    const auto record = ParseState(*ReadFile(entry.path()));
    ASSERT_TRUE(record.has_value()) << entry.path() << ": " << record.error().message();
    EXPECT_EQ(record->owner.pid, 4194203) << entry.path();
    EXPECT_EQ(record->cgroups.size(), 2U) << entry.path();
    ASSERT_EQ(record->containers.count("box"), 1U) << entry.path();
    const ContainerRecord& box = record->containers.at("box");
    EXPECT_EQ(box.mounts, std::vector<std::string>{"/bundles/box/rootfs"}) << entry.path();
    EXPECT_EQ(box.processes.at(0).start_time, 7701U) << entry.path();
    if (entry.path().filename() == "first.json") {
      EXPECT_TRUE(box.disks.empty());
      EXPECT_FALSE(box.hooked);
      EXPECT_TRUE(record->network.path.empty());
    }
    ++files;
  }
  EXPECT_GE(files, 2);
}

TEST(ParseStateTest, WhatALaterVersionMayAddIsNoError) {
  std::string text = FormatState(Sample());
  text.insert(1, R"("later":{"x":[1]},)");
  EXPECT_TRUE(ParseState(text).has_value());
}

TEST(ParseStateTest, LaterFormatSaysWhoCanUndoIt) {
  const auto record = ParseState(R"({"version":2,"anything":"else"})");
  ASSERT_FALSE(record.has_value());
  EXPECT_EQ(record.error().code(), Code::kFailedPrecondition);
  EXPECT_THAT(record.error().message(), testing::HasSubstr("format 2"));
}

TEST(StateDirectoryTest, NamespaceAndIdDoNotRunTogether) {
  EXPECT_NE(StateDirectory("/r", "a", "bc"), StateDirectory("/r", "ab", "c"));
  EXPECT_EQ(StateDirectory("/r", std::string(76, 'n'), std::string(128, 'i')).size(), 3U + 32U);
}

TEST_F(StateTest, FileIsWrittenBeforeTheStepRuns) {
  std::vector<std::string> steps;
  auto store = StateStore::Create(dir_, Sample(), [&](const std::string& step) {
    auto on_disk = LoadState(StateDirectory(dir_, "default", "box"));
    ASSERT_TRUE(on_disk.has_value());
    EXPECT_EQ(on_disk->cgroups.size(), steps.empty() ? 2U : 3U);
    steps.push_back(step);
  });
  ASSERT_TRUE(store.has_value());
  ASSERT_TRUE((*store)
                  ->Update("cgroup", [](SandboxRecord& r) { r.cgroups.emplace_back("/z"); })
                  .has_value());
  EXPECT_EQ(steps, (std::vector<std::string>{"state", "cgroup"}));
  struct stat info = {};
  ASSERT_EQ(stat((*store)->directory().c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777U, 0700U);
  EXPECT_TRUE((*store)->Remove().has_value());
  EXPECT_TRUE((*store)->Remove().has_value());
  EXPECT_FALSE(std::filesystem::exists((*store)->directory()));
}

TEST_F(StateTest, LivingOwnerMeansAlreadyExists) {
  auto store = StateStore::Create(dir_, Sample());
  ASSERT_TRUE(store.has_value());
  auto second = StateStore::Create(dir_, Sample());
  ASSERT_FALSE(second.has_value());
  EXPECT_EQ(second.error().code(), Code::kAlreadyExists);
}

TEST_F(StateTest, DeadOwnerMeansCleanUpFirst) {
  SandboxRecord record = Sample();
  record.owner.start_time += 1;
  auto store = StateStore::Create(dir_, record);
  ASSERT_TRUE(store.has_value());
  auto second = StateStore::Create(dir_, Sample());
  ASSERT_FALSE(second.has_value());
  EXPECT_EQ(second.error().code(), Code::kFailedPrecondition);
}

TEST_F(StateTest, LaterFormatIsNotWrittenOver) {
  const std::string directory = StateDirectory(dir_, "default", "box");
  std::filesystem::create_directories(directory);
  ASSERT_TRUE(WriteFile(directory + "/state.json", R"({"version":2})").has_value());
  const auto store = StateStore::Create(dir_, Sample());
  ASSERT_FALSE(store.has_value());
  EXPECT_EQ(store.error().code(), Code::kFailedPrecondition);
  EXPECT_EQ(*ReadFile(directory + "/state.json"), R"({"version":2})");
}

TEST_F(StateTest, FailedWriteKeepsTheRecord) {
  auto store = StateStore::Create(dir_, Sample());
  ASSERT_TRUE(store.has_value());
  std::filesystem::remove_all((*store)->directory());
  EXPECT_FALSE((*store)->Update("x", [](SandboxRecord& r) { r.cgroups.clear(); }).has_value());
  EXPECT_EQ((*store)->Snapshot().cgroups.size(), 2U);
}

TEST(ProcessTest, AnotherStartTimeIsAnotherProcess) {
  auto record = RecordProcess("self", getpid());
  ASSERT_TRUE(record.has_value());
  EXPECT_TRUE(IsAlive(*record));
  record->start_time ^= 1U;
  EXPECT_FALSE(IsAlive(*record));
  EXPECT_TRUE(KillProcess(*record).has_value());  // and we are still here
}

TEST(ProcessTest, KillEndsExactlyThatProcess) {
  auto child = Subprocess::Spawn(SpawnOptions{{"/bin/sleep", "100"}, {}, {}, {}});
  ASSERT_TRUE(child.has_value());
  auto record = RecordProcess("sleep", child->pid());
  ASSERT_TRUE(record.has_value());
  EXPECT_TRUE(KillProcess(*record).has_value());
  EXPECT_FALSE(IsAlive(*record));
  EXPECT_EQ(child->Wait()->signal, SIGKILL);
  EXPECT_TRUE(KillProcess(*record).has_value());
}

}  // namespace
}  // namespace wyvern::runtime
