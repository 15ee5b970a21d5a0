// What the containers of a pod share in the guest: real crun, real namespaces.
#include <gmock/gmock.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <set>

#include "agent/testing/agent_process.h"

namespace wyvern::agent {
namespace {

using testing::HasSubstr;
using testing::Not;

class PodTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!WhyNotHere().empty()) {
      GTEST_SKIP() << WhyNotHere();
    }
    agent_ = std::make_unique<AgentProcess>();
  }

  // Their cgroups would be in the way of the next test's.
  void TearDown() override {
    for (const std::string& id : ids_) {
      (void)agent_->Signal(id, "", SIGKILL);
      (void)agent_->Wait(id);
      (void)agent_->Delete(id);
    }
  }

  Result<> MakePod(uint64_t shm_bytes) {
    v1::CreateSandboxRequest request;
    request.mutable_pod()->set_shm_bytes(shm_bytes);
    return agent_->Call<v1::Empty>("CreateSandbox", request).map([](const v1::Empty&) {});
  }

  Result<> SharePids() {
    return agent_->Call<v1::Empty>("SharePids", v1::Empty()).map([](const v1::Empty&) {});
  }

  std::string Pod(const std::string& name) const { return agent_->dir() + "/pod/" + name; }

  // Created and started, with the pid namespace that `path` names. The error; empty: none.
  std::string Sleeper(const std::string& id, const std::string& path) {
    ids_.insert(id);
    ContainerConfig config;
    config.pid_namespace_path = path;
    const auto made = agent_->Create(id, config, agent_->MakeStdio(""));
    if (!made) {
      return made.error().message();
    }
    const auto started = agent_->Start(id);
    return started ? "" : started.error().message();
  }

  std::string Says(const std::string& id, const std::vector<std::string>& args) {
    std::string out;
    EXPECT_EQ(agent_->RunExec(id, "x" + std::to_string(++execs_), args, &out), 0) << out;
    return out;
  }

  std::unique_ptr<AgentProcess> agent_;
  std::set<std::string> ids_;
  int execs_ = 0;
};

TEST_F(PodTest, SharedMemoryHasItsSizeAndSharedPidsNeedAPod) {
  EXPECT_EQ(CodeOf(SharePids()), Code::kFailedPrecondition);
  ASSERT_TRUE(MakePod(1U << 20).has_value());
  struct statfs info = {};
  ASSERT_EQ(statfs(Pod("shm").c_str(), &info), 0);
  EXPECT_EQ(info.f_blocks * static_cast<uint64_t>(info.f_bsize), 1U << 20);
  struct stat status = {};
  ASSERT_EQ(stat(Pod("shm").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777U, 01777U);
}

TEST_F(PodTest, ContainersSeeEachOtherAndTheFirstProcessReaps) {
  ASSERT_TRUE(MakePod(0).has_value());
  ASSERT_TRUE(SharePids().has_value());
  ASSERT_TRUE(SharePids().has_value()) << "the same again";
  ASSERT_EQ(Sleeper("pod-a", Pod("pid")), "");
  ASSERT_EQ(Sleeper("pod-b", Pod("pid")), "");
  EXPECT_EQ(Says("pod-a", {"cat", "/proc/1/comm"}), "pause\n");
  EXPECT_THAT(Says("pod-b", {"sh", "-c", "cat /proc/[0-9]*/cmdline | busybox tr '\\0' ' '"}),
              HasSubstr("sleep 1000 sleep 1000"));
  // Its parent ends first: what is left is the first process's, which leaves no zombie.
  Says("pod-a", {"sh", "-c", "(sleep 0.2 &)"});
  usleep(600'000);
  EXPECT_THAT(Says("pod-b", {"sh", "-c", "cat /proc/[0-9]*/stat"}), Not(HasSubstr(" Z ")));
  // The end of one container's init takes what it left, and nothing of the other.
  ASSERT_TRUE(agent_->Exec("pod-a", "left", {"sleep", "1001"}, agent_->MakeStdio("")).has_value());
  ASSERT_TRUE(agent_->Start("pod-a", "left").has_value());
  ASSERT_TRUE(agent_->Signal("pod-a", "", SIGKILL).has_value());
  EXPECT_EQ(agent_->Wait("pod-a"), 137);
  EXPECT_EQ(agent_->Wait("pod-a", "left"), 137);
  ASSERT_TRUE(agent_->Delete("pod-a").has_value());
  EXPECT_THAT(Says("pod-b", {"sh", "-c", "cat /proc/[0-9]*/cmdline | busybox tr '\\0' ' '"}),
              Not(HasSubstr("sleep 1001")));
  // Once more with the same id.
  ASSERT_EQ(Sleeper("pod-a", Pod("pid")), "");
}

TEST_F(PodTest, IdsThatCannotBeMappedAreRefused) {
  v1::CreateSandboxRequest request;
  auto& users = *request.mutable_pod()->add_users();
  users.set_outside(100000);
  users.set_size(65536);
  EXPECT_EQ(CodeOf(agent_->Call<v1::Empty>("CreateSandbox", request)), Code::kInvalidArgument);
  *request.mutable_pod()->add_groups() = users;
  *request.mutable_pod()->add_groups() = users;
  EXPECT_EQ(CodeOf(agent_->Call<v1::Empty>("CreateSandbox", request)), Code::kInvalidArgument);
}

// One user namespace for all of them, as in a pod of Kubernetes with hostUsers: false: its processes and its System V IPC belong to it.
TEST_F(PodTest, UsersAreThePods) {
  v1::CreateSandboxRequest request;
  auto& users = *request.mutable_pod()->add_users();
  users.set_outside(100000);
  users.set_size(65536);
  *request.mutable_pod()->add_groups() = users;
  ASSERT_TRUE(agent_->Call<v1::Empty>("CreateSandbox", request).has_value());
  const auto shared = SharePids();
  ASSERT_TRUE(shared.has_value()) << shared.error().message();
  ContainerConfig config;
  config.user_namespace_path = Pod("user");
  config.ipc_namespace_path = Pod("ipc");
  config.pid_namespace_path = Pod("pid");
  for (const std::string id : {"pod-a", "pod-b"}) {
    ids_.insert(id);
    config.args = {"sleep", id == "pod-a" ? "1000" : "1002"};
    const auto made = agent_->Create(id, config, agent_->MakeStdio(""));
    ASSERT_TRUE(made.has_value()) << made.error().message();
    ASSERT_TRUE(agent_->Start(id).has_value());
  }
  EXPECT_THAT(Says("pod-a", {"cat", "/proc/self/uid_map", "/proc/1/comm"}),
              testing::ContainsRegex("^ +0 +100000 +65536\npause\n$"));
  const std::string links = "for n in user ipc; do busybox readlink /proc/self/ns/$n; done";
  EXPECT_EQ(Says("pod-a", {"sh", "-c", links}), Says("pod-b", {"sh", "-c", links}));
  EXPECT_THAT(Says("pod-a", {"cat", "/proc/1/status"}), HasSubstr("CapEff:\t0000000000000000"));
  // Root of the one may end what is the other's; only that, for what runs in a container ends with its first process.
  Says("pod-a", {"sh", "-c",
                 "for p in /proc/[0-9]*; do busybox grep -q sleep $p/comm && busybox grep -q 1002 "
                 "$p/cmdline && kill -KILL ${p#/proc/}; done; true"});
  EXPECT_EQ(agent_->Wait("pod-b"), 137);
}

TEST_F(PodTest, FirstProcessCannotBeKilledFromWithinNorGivesFilesAway) {
  ASSERT_TRUE(MakePod(0).has_value());
  ASSERT_TRUE(SharePids().has_value());
  ASSERT_EQ(Sleeper("pod-a", Pod("pid")), "");
  Says("pod-a", {"sh", "-c", "kill -KILL 1; kill -TERM 1; kill -HUP 1; true"});
  EXPECT_EQ(Says("pod-a", {"cat", "/proc/1/comm"}), "pause\n");
  EXPECT_THAT(Says("pod-a", {"sh", "-c",
                             "busybox ls /proc/1/root/ 2>&1; busybox ls /proc/1/fd/ 2>&1; true"}),
              testing::AnyOf("", HasSubstr("ermission denied")));
  EXPECT_THAT(Says("pod-a", {"cat", "/proc/1/status"}), HasSubstr("CapEff:\t0000000000000000"));
}

TEST_F(PodTest, ThatOfAnotherContainerIsSharedWhileItLives) {
  ASSERT_TRUE(MakePod(0).has_value());
  ASSERT_EQ(Sleeper("pod-target", ""), "");
  ASSERT_EQ(Sleeper("pod-debug", Pod("pids/pod-target")), "");
  EXPECT_THAT(Says("pod-debug", {"cat", "/proc/1/cmdline"}), HasSubstr("sleep"));
  EXPECT_EQ(Says("pod-debug", {"cat", "/proc/1/comm"}), "sleep\n");
  ASSERT_TRUE(agent_->Signal("pod-target", "", SIGKILL).has_value());
  EXPECT_EQ(agent_->Wait("pod-target"), 137);
  EXPECT_EQ(agent_->Wait("pod-debug"), 137) << "as the kernel does with the first process of one";
  EXPECT_FALSE(std::filesystem::exists(std::filesystem::symlink_status(Pod("pids/pod-target"))));
  EXPECT_NE(Sleeper("pod-late", Pod("pids/pod-target")), "");
}

}  // namespace
}  // namespace wyvern::agent
