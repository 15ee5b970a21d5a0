// Volumes in the guest's memory, and what a container that may write to one does to the agent: real mounts.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <poll.h>
#include <sys/inotify.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <filesystem>
#include <set>
#include <thread>

#include "agent/guest_volumes.h"
#include "agent/testing/agent_process.h"

namespace wyvern::agent {
namespace {

namespace fs = std::filesystem;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;

// The table as the agent has it, in a directory of the test's.
class VolumeTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!WhyNotHere().empty()) {
      GTEST_SKIP() << WhyNotHere();
    }
    std::string name = "/tmp/wyvern-volumes-XXXXXX";
    dir_ = mkdtemp(name.data());
    Open(everything_);
  }

  void Open(const Policy& policy) {
    table_.emplace(VolumeOptions{.directory = dir_ + "/v", .huge_pages = dir_ + "/pages"}, policy);
  }

  void TearDown() override {
    if (dir_.empty()) {
      return;
    }
    std::error_code error;
    for (fs::directory_iterator it(dir_ + "/v", error), end; !error && it != end;
         it.increment(error)) {
      umount2(it->path().c_str(), MNT_DETACH | UMOUNT_NOFOLLOW);
    }
    fs::remove_all(dir_);
  }

  std::string Path(const std::string& name) const { return dir_ + "/v/" + name; }

  Result<> AddMemory(const std::string& name, uint64_t bytes) {
    return table_->Add({.name = name, .owner = {01777, 5, 6}, .what = WantedMemory{bytes}});
  }

  Result<> AddPart(const std::string& name, const std::string& path) {
    return table_->Add({.name = name, .owner = {0750, 7, 8}, .what = WantedPart{"e0", path}});
  }

  void AddFiles(const std::string& name) {
    ASSERT_TRUE(
        table_->Add({.name = name, .owner = {0755, 0, 0}, .what = WantedFiles{}}).has_value());
  }

  static VolumeContent Content(const std::string& version, const std::string& text) {
    VolumeContent out;
    out.name = "f0";
    out.version = version;
    out.owner = {03777, 0, 9};
    out.entries = {{"key", {0640, 3, 9}, false, text},
                   {"dir", {0755, 0, 0}, true, ""},
                   {"dir/sub", {0400, 0, 0}, false, text + text}};
    out.tops = {"key", "dir"};
    return out;
  }

  static std::set<std::string> Names(const std::string& directory) {
    std::set<std::string> out;
    for (const auto& entry : fs::directory_iterator(directory)) {
      out.insert(entry.path().filename());
    }
    return out;
  }

  std::string Read(const std::string& name) const {
    return ReadFile(Path("f0/files/" + name)).value_or("?");
  }

  std::string dir_;
  const Policy everything_{std::nullopt};
  std::optional<VolumeTable> table_;
};

TEST_F(VolumeTest, APolicyLetsFilesComeOnce) {
  const Policy nothing("");
  Open(nothing);
  AddFiles("f0");
  ASSERT_TRUE(table_->Replace(Content("..1", "first")).has_value());
  EXPECT_EQ(CodeOf(table_->Replace(Content("..2", "second"))), Code::kPermissionDenied);
  EXPECT_EQ(Read("key"), "first");
  EXPECT_EQ(nothing.refused(), 1U);
  table_.reset();  // before its policy
}

TEST_F(VolumeTest, MemoryHasItsSizeOwnerAndModeAndGoes) {
  ASSERT_TRUE(AddMemory("e0", 3U << 20).has_value());
  struct statfs info = {};
  ASSERT_EQ(statfs(Path("e0").c_str(), &info), 0);
  EXPECT_EQ(info.f_blocks * static_cast<uint64_t>(info.f_bsize), 3U << 20);
  struct stat status = {};
  ASSERT_EQ(stat(Path("e0").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777U, 01777U);
  EXPECT_EQ(status.st_uid, 5U);
  EXPECT_EQ(status.st_gid, 6U);
  EXPECT_EQ(CodeOf(AddMemory("e0", 0)), Code::kAlreadyExists);
  ASSERT_TRUE(table_->Remove("e0").has_value());
  EXPECT_FALSE(fs::exists(Path("e0")));
  EXPECT_TRUE(table_->Remove("e0").has_value());
}

TEST_F(VolumeTest, PartsAreMadeAndSeenFromBoth) {
  ASSERT_TRUE(AddMemory("e0", 0).has_value());
  ASSERT_TRUE(AddPart("p0", "a/b").has_value());
  ASSERT_TRUE(WriteFile(Path("p0/x"), "1").has_value());
  EXPECT_EQ(ReadFile(Path("e0/a/b/x")).value_or(""), "1");
  struct stat status = {};
  ASSERT_EQ(stat(Path("p0").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777U, 0750U);
  EXPECT_EQ(status.st_gid, 8U);
  ASSERT_TRUE(AddPart("p1", "a/b").has_value()) << "what is there is taken";
  EXPECT_TRUE(fs::exists(Path("p1/x")));
  EXPECT_EQ(CodeOf(table_->Add({.name = "p2", .owner = {}, .what = WantedPart{"none", "a"}})),
            Code::kNotFound);
  AddFiles("f0");
  EXPECT_EQ(CodeOf(table_->Add({.name = "p3", .owner = {}, .what = WantedPart{"f0", "new"}})),
            Code::kNotFound);
}

TEST_F(VolumeTest, APartIsNeverOutsideWhateverLinksAreThere) {
  ASSERT_TRUE(AddMemory("e0", 0).has_value());
  ASSERT_TRUE(AddMemory("e1", 0).has_value());
  fs::create_directory(Path("e1/mine"));
  fs::create_directory_symlink("/", Path("e0/root"));
  fs::create_directory_symlink("../e1", Path("e0/other"));
  fs::create_directory_symlink("/proc/self/root", Path("e0/magic"));
  fs::create_directory(Path("e0/real"));
  fs::create_directory_symlink("real", Path("e0/within"));
  ASSERT_TRUE(WriteFile(Path("e0/file"), "").has_value());
  for (const char* path : {"root", "root/etc", "other", "other/mine", "other/new", "magic",
                           "magic/tmp", "file", "file/x"}) {
    EXPECT_EQ(CodeOf(AddPart("p0", path)), Code::kFailedPrecondition) << path;
    EXPECT_FALSE(fs::exists(Path("p0"))) << path;
  }
  EXPECT_THAT(Names(Path("e1")), ElementsAre("mine"));
  EXPECT_TRUE(AddPart("p0", "within/x").has_value());
  EXPECT_TRUE(fs::exists(Path("e0/real/x")));
}

TEST_F(VolumeTest, HugePagesThatAreNotThereAreRefusedWithTheReason) {
  const auto add = [&] {
    return table_->Add({.name = "h0", .owner = {0777, 0, 0}, .what = WantedHugePages{2U << 20, 0}});
  };
  auto none = add();
  EXPECT_EQ(CodeOf(none), Code::kFailedPrecondition);
  EXPECT_THAT(none.error().message(), HasSubstr("kernel has no huge pages of 2048 kB"));
  fs::create_directories(dir_ + "/pages/hugepages-2048kB");
  ASSERT_TRUE(WriteFile(dir_ + "/pages/hugepages-2048kB/nr_hugepages", "0\n").has_value());
  none = add();
  EXPECT_EQ(CodeOf(none), Code::kFailedPrecondition);
  EXPECT_THAT(none.error().message(), HasSubstr("hugepagesz=2048K hugepages=NUMBER"));
  EXPECT_FALSE(fs::exists(Path("h0")));
}

TEST_F(VolumeTest, FilesLookAsKubeletsAndChangeAtOnce) {
  AddFiles("f0");
  ASSERT_TRUE(table_->Replace(Content("..1", "one")).has_value());
  EXPECT_EQ(Read("key"), "one");
  EXPECT_EQ(Read("dir/sub"), "oneone");
  EXPECT_EQ(fs::read_symlink(Path("f0/files/..data")), "..1");
  EXPECT_EQ(fs::read_symlink(Path("f0/files/key")), "..data/key");
  struct stat status = {};
  ASSERT_EQ(stat(Path("f0/files/key").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777U, 0640U);
  EXPECT_EQ(status.st_uid, 3U);
  EXPECT_EQ(status.st_gid, 9U);
  ASSERT_EQ(stat(Path("f0/files").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777U, 03777U);

  VolumeContent second = Content("..2", "two");
  second.entries.resize(1);
  second.tops = {"key"};
  ASSERT_TRUE(table_->Replace(second).has_value());
  EXPECT_EQ(Read("key"), "two");
  EXPECT_THAT(Names(Path("f0/files")), ElementsAre("..2", "..data", "key"));
  EXPECT_THAT(Names(Path("f0/new")), ElementsAre());
  second.entries[0].content = "again";
  ASSERT_TRUE(table_->Replace(second).has_value()) << "the same version once more";
  EXPECT_EQ(Read("key"), "again");
  EXPECT_EQ(CodeOf(table_->Replace(
                {.name = "none", .version = "..1", .owner = {}, .entries = {}, .tops = {}})),
            Code::kNotFound);
}

TEST_F(VolumeTest, WatchersSeeTheSwap) {
  AddFiles("f0");
  ASSERT_TRUE(table_->Replace(Content("..1", "one")).has_value());
  const UniqueFd watch(inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  ASSERT_GE(inotify_add_watch(watch.get(), Path("f0/files").c_str(), IN_ALL_EVENTS), 0);
  ASSERT_GE(inotify_add_watch(watch.get(), Path("f0/files/key").c_str(), IN_DELETE_SELF), 0);
  ASSERT_TRUE(table_->Replace(Content("..2", "two")).has_value());
  std::vector<std::string> seen;
  alignas(inotify_event) std::array<char, 16384> buffer{};
  ssize_t got = 0;
  while ((got = read(watch.get(), buffer.data(), buffer.size())) > 0) {
    for (ssize_t at = 0; at < got;) {
      const auto* event = reinterpret_cast<const inotify_event*>(&buffer[static_cast<size_t>(at)]);
      const std::string name = event->len > 0 ? event->name : "";
      if ((event->mask & IN_MOVED_TO) != 0) {
        seen.push_back("to " + name);
      } else if ((event->mask & IN_MOVED_FROM) != 0) {
        seen.push_back("from " + name);
      } else if ((event->mask & IN_DELETE_SELF) != 0) {
        seen.push_back("gone");
      }
      at += static_cast<ssize_t>(sizeof(inotify_event) + event->len);
    }
  }
  EXPECT_THAT(seen, ElementsAre("to ..2", "to ..data", "from ..1", "gone"));
}

TEST_F(VolumeTest, WhatAContainerPutsInTheWayIsMovedAwayAndNotFollowed) {
  AddFiles("f0");
  ASSERT_TRUE(table_->Replace(Content("..1", "one")).has_value());
  const std::string files = Path("f0/files/");
  const std::string outside = dir_ + "/outside";
  fs::create_directory(outside);
  ASSERT_TRUE(WriteFile(outside + "/key", "kept").has_value());
  // Where the next version, its link and its keys will be.
  fs::create_directory_symlink(outside, files + "..2");
  fs::remove(files + "..data");
  fs::create_directories(files + "..data/full");
  fs::remove(files + "key");
  fs::create_symlink(outside + "/key", files + "key");
  fs::remove(files + "dir");
  fs::create_directories(files + "dir/deep/deeper");
  ASSERT_EQ(mkfifo((files + "fifo").c_str(), 0600), 0);
  fs::create_directory_symlink(outside, files + "more");
  fs::remove_all(files + "..1");
  fs::create_directory_symlink(outside, files + "..1");
  ASSERT_TRUE(table_->Replace(Content("..2", "two")).has_value());
  EXPECT_THAT(Names(Path("f0/files")), ElementsAre("..2", "..data", "dir", "key"));
  EXPECT_EQ(Read("key"), "two");
  EXPECT_EQ(Read("dir/sub"), "twotwo");
  EXPECT_THAT(Names(outside), ElementsAre("key"));
  EXPECT_EQ(ReadFile(outside + "/key").value_or(""), "kept");
  EXPECT_THAT(Names(Path("f0/new")), ElementsAre());
}

TEST_F(VolumeTest, AContainerThatChangesItAllTheTimeHurtsOnlyItself) {
  AddFiles("f0");
  ASSERT_TRUE(table_->Replace(Content("..0", "0")).has_value());
  const std::string outside = dir_ + "/outside";
  fs::create_directory(outside);
  std::atomic<bool> stop{false};
  std::thread attacker([&] {
    const std::string files = Path("f0/files/");
    for (int i = 0; !stop; ++i) {
      const std::string name = std::array<const char*, 4>{"..data", "key", "dir", "..2"}[i % 4];
      (void)renameat2(AT_FDCWD, (files + name).c_str(), AT_FDCWD,
                      (files + "x" + std::to_string(i % 16)).c_str(), 0);
      if (i % 3 == 0) {
        (void)symlink(outside.c_str(), (files + name).c_str());
      } else {
        (void)mkdir((files + name).c_str(), 0700);
      }
    }
  });
  int replaced = 0;
  for (int i = 1; i <= 200; ++i) {
    const auto done = table_->Replace(Content(".." + std::to_string(i % 4), "text"));
    replaced += done.has_value() ? 1 : 0;
    if (!done) {
      EXPECT_THAT((std::set{Code::kAborted, Code::kNotFound, Code::kInternal}),
                  Contains(CodeOf(done)))
          << done.error().message();
    }
  }
  stop = true;
  attacker.join();
  EXPECT_THAT(Names(outside), ElementsAre());
  ASSERT_TRUE(table_->Replace(Content("..9", "calm")).has_value());
  EXPECT_EQ(Read("key"), "calm");
  EXPECT_THAT(Names(Path("f0/files")), ElementsAre("..9", "..data", "dir", "key"));
  RecordProperty("replaced", replaced);
}

TEST_F(VolumeTest, AFullVolumeIsToldAndEmptiedByTheNext) {
  AddFiles("f0");
  ASSERT_TRUE(table_->Replace(Content("..1", "one")).has_value());
  EXPECT_FALSE(WriteFile(Path("f0/files/junk"), std::string(size_t{20} << 20, 'x')).has_value());
  VolumeContent large = Content("..2", std::string(300000, 'y'));
  EXPECT_EQ(CodeOf(table_->Replace(large)), Code::kResourceExhausted);
  EXPECT_EQ(Read("key"), "one");
  fs::remove(Path("f0/files/junk"));
  EXPECT_TRUE(table_->Replace(large).has_value());
}

TEST_F(VolumeTest, TheAgentServesThem) {
  AgentProcess agent;
  v1::AddVolumeRequest add;
  add.set_name("itest-f");
  add.mutable_owner()->set_mode(0755);
  EXPECT_EQ(CodeOf(agent.Call<v1::Empty>("AddVolume", add)), Code::kInvalidArgument);
  add.mutable_files();
  fs::create_directories("/run/wyvern");
  ASSERT_TRUE(agent.Call<v1::Empty>("AddVolume", add).has_value());
  v1::SetVolumeFilesRequest set;
  set.set_name("itest-f");
  set.set_version("..7");
  auto* file = set.add_file();
  file->set_path("token");
  file->mutable_owner()->set_mode(0600);
  file->set_content("t");
  const std::string path = "/run/wyvern/volumes/itest-f";
  ASSERT_TRUE(agent.Call<v1::Empty>("SetVolumeFiles", set).has_value());
  EXPECT_EQ(ReadFile(path + "/files/token").value_or("?"), "t");
  file->set_path("../token");
  EXPECT_EQ(CodeOf(agent.Call<v1::Empty>("SetVolumeFiles", set)), Code::kInvalidArgument);
  v1::RemoveVolumeRequest remove;
  remove.set_name("itest-f/..");
  EXPECT_EQ(CodeOf(agent.Call<v1::Empty>("RemoveVolume", remove)), Code::kInvalidArgument);
  remove.set_name("itest-f");
  EXPECT_TRUE(agent.Call<v1::Empty>("RemoveVolume", remove).has_value());
  EXPECT_FALSE(fs::exists(path));
}

}  // namespace
}  // namespace wyvern::agent
