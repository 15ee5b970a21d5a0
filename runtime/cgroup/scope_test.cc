// The driver systemd: against a fake of it, on plain files and on a real hierarchy where there is one.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>

#include "base/subprocess.h"
#include "cgroup/cgroup.h"
#include "systemd/testing/fake_systemd.h"

namespace wyvern::runtime {
namespace {

namespace fs = std::filesystem;

using testing::Contains;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

class ScopeTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = fs::temp_directory_path() / "wyvern-scope-XXXXXX";
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    dir_ = name;
    root_ = dir_ + "/cgroup";
    place_ = *ParseCgroupsPath("pods.slice:cri-containerd:box", "box");
    directory_ = root_ + place_.path;
    fs::create_directories(directory_);
  }

  void TearDown() override {
    fake_.reset();
    fs::remove_all(dir_);
  }

  void StartSystemd() { fake_ = std::make_unique<FakeSystemd>(dir_, root_); }

  void Have(std::initializer_list<const char*> files) {
    for (const char* file : files) {
      ASSERT_TRUE(Open(directory_ + "/" + file, O_CREAT | O_WRONLY, 0600).has_value());
    }
  }

  std::string In(const char* file) { return ReadFile(directory_ + "/" + file, 4096).value_or("?"); }

  std::map<std::string, std::string> Properties() {
    return fake_->units().at(place_.unit).properties;
  }

  std::string dir_, root_, directory_;
  CgroupPlace place_;
  std::unique_ptr<FakeSystemd> fake_;
};

TEST_F(ScopeTest, BeginsWithTheFirstProcessAndWhatWasAskedForBefore) {
  StartSystemd();
  Have({"memory.max", "cpu.weight", "cpu.max"});
  Cgroup group = *Cgroup::Make(root_, place_, "box");
  EXPECT_FALSE(group.OpenProcs()->valid());
  EXPECT_TRUE(*group.LimitMemory(1 << 20));
  ASSERT_TRUE(group.Apply({.cpu_shares = 1024, .cpu_quota = 12345}).has_value());
  ASSERT_TRUE(group.Apply({.cpu_shares = 512}).has_value());
  EXPECT_THAT(group.Controllers(), Contains("memory"));
  EXPECT_THAT(fake_->calls(), IsEmpty());
  const auto added = group.Add(4711);
  ASSERT_TRUE(added.has_value()) << added.error().message();
  EXPECT_EQ(Properties().at("Description"), "s Wyvern, box");
  EXPECT_EQ(Properties().at("CPUWeight"), "t 59");
  EXPECT_EQ(Properties().at("CPUQuotaPerSecUSec"), "t 130000");  // what systemd can say
  EXPECT_EQ(Properties().at("MemoryMax"), "t 1048576");
  EXPECT_EQ(In("cpu.max"), "12345 100000");  // what was asked for
  EXPECT_EQ(In("cpu.weight"), "59");
  EXPECT_EQ(In("memory.max"), "1048576");
  EXPECT_TRUE(group.OpenProcs()->valid());
}

TEST_F(ScopeTest, LaterLimitsGoToSystemdAndToTheFiles) {
  StartSystemd();
  Have({"cpu.weight", "memory.max", "cgroup.controllers"});
  ASSERT_TRUE(WriteFile(directory_ + "/cgroup.controllers", "cpu io\n").has_value());
  Cgroup group = *Cgroup::Make(root_, place_, "box");
  ASSERT_TRUE(group.Add(4711).has_value());
  ASSERT_TRUE(group.Apply({.cpu_shares = 2048}).has_value());
  EXPECT_EQ(Properties().at("CPUWeight"), "t 174");
  EXPECT_EQ(In("cpu.weight"), "174");
  ASSERT_TRUE(group.LimitMemory(~uint64_t{0}).has_value());
  EXPECT_EQ(Properties().at("MemoryMax"), "t 9223372036854775807");
  EXPECT_EQ(group.Controllers(), (std::set<std::string>{"cpu", "io"}));
  ASSERT_TRUE(group.Add(4712).has_value());
  EXPECT_EQ(In("cgroup.procs"), "4712");  // written by us: the scope is delegated
}

TEST_F(ScopeTest, AScopeElsewhereIsNoScope) {
  StartSystemd();
  Cgroup group = *Cgroup::Make(dir_ + "/other", place_, "box");
  const auto added = group.Add(4711);
  ASSERT_FALSE(added.has_value());
  EXPECT_EQ(added.error().code(), Code::kFailedPrecondition);
  EXPECT_THAT(added.error().message(), HasSubstr("cgroup_root"));
}

TEST_F(ScopeTest, SystemdThatRefusesIsTheError) {
  StartSystemd();
  fake_->Do("StartTransientUnit", FakeSystemd::Manner::kError,
            "org.freedesktop.DBus.Error.AccessDenied");
  Cgroup group = *Cgroup::Make(root_, place_, "box");
  EXPECT_EQ(group.Add(4711).error().code(), Code::kPermissionDenied);
  EXPECT_TRUE(group.Apply({.cpu_shares = 5}).has_value());  // still only wanted
  fake_->DoRight("StartTransientUnit");
  Have({"cpu.weight"});
  ASSERT_TRUE(group.Add(4711).has_value());
  fake_->Do("SetUnitProperties", FakeSystemd::Manner::kError,
            "org.freedesktop.DBus.Error.InvalidArgs");
  EXPECT_EQ(group.Apply({.cpu_shares = 1024}).error().code(), Code::kInvalidArgument);
  EXPECT_EQ(In("cpu.weight"), "2");  // as it was
}

TEST_F(ScopeTest, ProcessesInItAreNotTakenOver) {
  Have({"cgroup.procs"});
  ASSERT_TRUE(WriteFile(directory_ + "/cgroup.procs", "1\n").has_value());
  EXPECT_EQ(Cgroup::Make(root_, place_, "box").error().code(), Code::kAlreadyExists);
}

class RealScopeTest : public testing::Test {
 protected:
  void SetUp() override {
    for (const char* root : {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"}) {
      if (CheckCgroupRoot(root).has_value() && access(root, W_OK) == 0 && geteuid() == 0) {
        root_ = root;
        std::string name = fs::temp_directory_path() / "wyvern-scope-XXXXXX";
        ASSERT_NE(::mkdtemp(name.data()), nullptr);
        dir_ = name;
        const std::string unique = "wyverntest" + std::to_string(getpid());
        place_ = *ParseCgroupsPath(unique + ".slice:t:box", "box");
        slice_ = root_ + "/" + unique + ".slice";
        fake_ = std::make_unique<FakeSystemd>(dir_, root_);
        return;
      }
    }
    GTEST_SKIP() << "no writable cgroup v2 hierarchy here";
  }

  void TearDown() override {
    fake_.reset();
    if (!slice_.empty()) {
      rmdir(slice_.c_str());
      fs::remove_all(dir_);
    }
  }

  std::string root_, dir_, slice_;
  CgroupPlace place_;
  std::unique_ptr<FakeSystemd> fake_;
};

TEST_F(RealScopeTest, RemoveKillsAndLeavesTheRestToSystemd) {
  auto first = Subprocess::Spawn(SpawnOptions{{"/bin/sleep", "100"}, {}, {}, {}});
  auto second = Subprocess::Spawn(SpawnOptions{{"/bin/sleep", "100"}, {}, {}, {}});
  ASSERT_TRUE(first.has_value() && second.has_value());
  Cgroup group = *Cgroup::Make(root_, place_, "box");
  const auto added = group.Add(first->pid());
  ASSERT_TRUE(added.has_value()) << added.error().message();
  ASSERT_TRUE(group.Add(second->pid()).has_value());
  EXPECT_TRUE(RemoveCgroup(root_, group.directory()).has_value());
  EXPECT_EQ(first->Wait()->signal, SIGKILL);
  EXPECT_EQ(second->Wait()->signal, SIGKILL);
  EXPECT_FALSE(fs::exists(group.directory()));
  EXPECT_THAT(fake_->units(), IsEmpty());
  EXPECT_TRUE(fs::exists(slice_));  // systemd's
  EXPECT_TRUE(RemoveCgroup(root_, group.directory()).has_value());
}

TEST_F(RealScopeTest, WhereSystemdDoesNotRemoveItWeDo) {
  auto child = Subprocess::Spawn(SpawnOptions{{"/bin/sleep", "100"}, {}, {}, {}});
  ASSERT_TRUE(child.has_value());
  Cgroup group = *Cgroup::Make(root_, place_, "box");
  ASSERT_TRUE(group.Add(child->pid()).has_value());
  fake_.reset();
  EXPECT_TRUE(RemoveCgroup(root_, group.directory()).has_value());
  EXPECT_EQ(child->Wait()->signal, SIGKILL);
  EXPECT_FALSE(fs::exists(group.directory()));
}

TEST_F(RealScopeTest, AForeignScopeIsNotTouched) {
  fs::create_directories(root_ + place_.path);
  EXPECT_TRUE(RemoveCgroup(root_, root_ + place_.path).has_value());
  EXPECT_TRUE(fs::exists(root_ + place_.path));
  rmdir((root_ + place_.path).c_str());
}

}  // namespace
}  // namespace wyvern::runtime
