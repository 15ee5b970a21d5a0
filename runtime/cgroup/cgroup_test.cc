#include "cgroup/cgroup.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>

#include "base/subprocess.h"

namespace wyvern::runtime {
namespace {

using testing::HasSubstr;

TEST(CgroupsPathTest, HostilePathsAreRefused) {
  for (const char* text : {"/", "///", "..", "/a/../../b", "a:b", "a:b:c:d", "x.slice:p:",
                           "no-slice:p:n", "-x.slice:p:n", "a--b.slice:p:n", "a b.slice:p:n",
                           "a.slice:p q:n", "a.slice:p:n\n", "a.slice:p:\xc3\xa4"}) {
    auto place = ParseCgroupsPath(text, "id");
    ASSERT_FALSE(place.has_value()) << text;
    EXPECT_THAT(place.error().message(), HasSubstr("linux.cgroupsPath")) << text;
  }
}

TEST(CgroupsPathTest, PathsAndDefaults) {
  EXPECT_EQ(ParseCgroupsPath("", "box")->path, "/wyvern/box");
  EXPECT_EQ(ParseCgroupsPath("/default/t", "t")->path, "/default/t");
  EXPECT_EQ(ParseCgroupsPath("a/./b//c", "t")->path, "/a/b/c");
  EXPECT_EQ(SandboxPlace(*ParseCgroupsPath("/kubepods/pod1/abc", "abc"), "abc").path,
            "/kubepods/pod1/wyvern-sandbox-abc");
  EXPECT_EQ(SandboxPlace(*ParseCgroupsPath("/abc", "abc"), "abc").path, "/wyvern-sandbox-abc");
}

TEST(CgroupsPathTest, SystemdForm) {
  auto place = ParseCgroupsPath("kubepods-burstable-pod1.slice:cri-containerd:abc", "abc");
  ASSERT_TRUE(place.has_value());
  EXPECT_TRUE(place->systemd);
  EXPECT_EQ(place->unit, "cri-containerd-abc.scope");
  EXPECT_EQ(place->path,
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/"
            "cri-containerd-abc.scope");
  EXPECT_EQ(ParseCgroupsPath(":docker:abc", "abc")->path, "/system.slice/docker-abc.scope");
  const CgroupPlace sandbox = SandboxPlace(*place, "abc");
  EXPECT_EQ(sandbox.unit, "wyvern-sandbox-abc.scope");
  EXPECT_EQ(sandbox.slice, "kubepods-burstable-pod1.slice");
  EXPECT_EQ(sandbox.path,
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/"
            "wyvern-sandbox-abc.scope");
}

TEST(CgroupRootTest, AnotherFileSystemIsRefusedWithARemedy) {
  auto checked = CheckCgroupRoot("/proc");
  ASSERT_FALSE(checked.has_value());
  EXPECT_EQ(checked.error().code(), Code::kFailedPrecondition);
  EXPECT_THAT(checked.error().message(), HasSubstr("unified_cgroup_hierarchy"));
}

Result<Cgroup> MakeCgroup(const std::string& root, const std::string& path) {
  CgroupPlace place;
  place.path = path;
  return Cgroup::Make(root, place, "test");
}

// A tree of plain files: what is written where.
class FakeCgroupTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = std::filesystem::temp_directory_path() / "wyvern-cgroup-XXXXXX";
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    root_ = name;
    std::filesystem::create_directory(root_ + "/box");
  }

  void TearDown() override { std::filesystem::remove_all(root_); }

  void Have(std::initializer_list<const char*> files) {
    for (const char* file : files) {
      ASSERT_TRUE(Open(root_ + "/box/" + file, O_CREAT | O_WRONLY, 0600).has_value());
    }
  }

  std::string In(const char* file) { return ReadFile(root_ + "/box/" + file, 4096).value_or("?"); }

  Result<> Apply(const Limits& limits) { return MakeCgroup(root_, "/box")->Apply(limits); }

  std::string root_;
};

TEST_F(FakeCgroupTest, LimitsAreWritten) {
  Have({"cpu.weight", "cpu.max", "cpuset.cpus", "memory.max", "memory.swap.max", "pids.max",
        "io.weight", "io.max"});
  const auto applied = Apply({.cpu_shares = 1024,
                              .cpu_quota = 50000,
                              .cpus = "0-1",
                              .memory_limit = 1 << 20,
                              .memory_swap = 1 << 20,
                              .pids = 7,
                              .io_weight = 10,
                              .io_limits = {{{8, 0}, {.read_bytes = 5}}}});
  ASSERT_TRUE(applied.has_value()) << applied.error().message();
  EXPECT_EQ(In("cpu.weight"), "100");
  EXPECT_EQ(In("cpu.max"), "50000 100000");
  EXPECT_EQ(In("cpuset.cpus"), "0-1");
  EXPECT_EQ(In("memory.max"), "1048576");
  EXPECT_EQ(In("memory.swap.max"), "0");
  EXPECT_EQ(In("pids.max"), "7");
  EXPECT_EQ(In("io.weight"), "default 1");
  EXPECT_EQ(In("io.max"), "8:0 rbps=5");
}

TEST_F(FakeCgroupTest, MissingControllerIsNamedAndAMissingNicetyIsNot) {
  Have({"memory.max"});
  EXPECT_TRUE(Apply({.memory_limit = 4096, .memory_swap = -1}).has_value());
  const auto applied = Apply({.memory_limit = 8192, .memory_swap = 16384});
  ASSERT_FALSE(applied.has_value());
  EXPECT_EQ(applied.error().code(), Code::kFailedPrecondition);
  EXPECT_THAT(applied.error().message(),
              HasSubstr("has no memory.swap.max: the memory controller"));
  EXPECT_EQ(In("memory.max"), "8192");
  EXPECT_FALSE(std::filesystem::exists(root_ + "/box/memory.swap.max"));
}

TEST_F(FakeCgroupTest, WeightsGoToTheSchedulerThatIsThere) {
  Have({"io.weight", "io.bfq.weight"});
  ASSERT_TRUE(Apply({.io_weight = 500}).has_value());
  EXPECT_EQ(In("io.bfq.weight"), "500");
  EXPECT_EQ(In("io.weight"), "");
}

class CgroupTest : public testing::Test {
 protected:
  void SetUp() override {
    for (const char* root : {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"}) {
      if (CheckCgroupRoot(root).has_value() && access(root, W_OK) == 0 && geteuid() == 0) {
        root_ = root;
        path_ = "/wyvern-test-" + std::to_string(getpid());
        return;
      }
    }
    GTEST_SKIP() << "no writable cgroup v2 hierarchy here";
  }

  std::string root_, path_;
};

TEST_F(CgroupTest, RemoveKillsAndTakesTheParentsWeMade) {
  auto group = MakeCgroup(root_, path_ + "/a/b");
  ASSERT_TRUE(group.has_value()) << group.error().message();
  auto child = Subprocess::Spawn(SpawnOptions{{"/bin/sleep", "100"}, {}, {}, {}});
  ASSERT_TRUE(child.has_value());
  ASSERT_TRUE(group->Add(child->pid()).has_value());
  auto again = MakeCgroup(root_, path_ + "/a/b");
  ASSERT_FALSE(again.has_value());
  EXPECT_EQ(again.error().code(), Code::kAlreadyExists);
  EXPECT_TRUE(RemoveCgroup(root_, group->directory()).has_value());
  EXPECT_EQ(child->Wait()->signal, SIGKILL);
  EXPECT_FALSE(std::filesystem::exists(root_ + path_));
  EXPECT_TRUE(RemoveCgroup(root_, group->directory()).has_value());
}

TEST_F(CgroupTest, ProcessesKilledForWantOfMemoryAreCounted) {
  Cgroup group = *MakeCgroup(root_, path_ + "/hungry");
  EXPECT_EQ(group.OutOfMemoryKills(), 0U);
  const Result<bool> limited = group.LimitMemory(8U << 20U);
  ASSERT_TRUE(limited.has_value());
  if (!*limited) {
    ASSERT_TRUE(RemoveCgroup(root_, group.directory()).has_value());
    GTEST_SKIP() << "no memory controller here";
  }
  // It joins by itself: what it has before is charged elsewhere.
  auto hungry = Subprocess::Spawn(SpawnOptions{
      {"/bin/sh", "-c", "echo 0 > $0/cgroup.procs; head -c 64M /dev/zero | tail -c 64M",
       group.directory()},
      {},
      {},
      {}});
  ASSERT_TRUE(hungry.has_value());
  ASSERT_TRUE(hungry->Wait().has_value());
  EXPECT_GT(group.OutOfMemoryKills(), 0U);
  EXPECT_TRUE(RemoveCgroup(root_, group.directory()).has_value());
}

TEST_F(CgroupTest, SharedParentGoesWithTheLast) {
  auto first = MakeCgroup(root_, path_ + "/one");
  auto second = MakeCgroup(root_, path_ + "/two");
  ASSERT_TRUE(first.has_value() && second.has_value());
  EXPECT_TRUE(RemoveCgroup(root_, first->directory()).has_value());
  EXPECT_TRUE(std::filesystem::exists(root_ + path_));
  EXPECT_TRUE(RemoveCgroup(root_, second->directory()).has_value());
  EXPECT_FALSE(std::filesystem::exists(root_ + path_));
}

TEST_F(CgroupTest, ForeignParentStays) {
  std::filesystem::create_directory(root_ + path_);
  auto group = MakeCgroup(root_, path_ + "/one");
  ASSERT_TRUE(group.has_value());
  EXPECT_TRUE(RemoveCgroup(root_, group->directory()).has_value());
  EXPECT_TRUE(std::filesystem::exists(root_ + path_));
  std::filesystem::remove(root_ + path_);
}

TEST_F(CgroupTest, NothingOutsideTheRootIsRemoved) {
  EXPECT_FALSE(RemoveCgroup(root_, "/tmp/x").has_value());
  EXPECT_FALSE(RemoveCgroup(root_, root_).has_value());
}

}  // namespace
}  // namespace wyvern::runtime
