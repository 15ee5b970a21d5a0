// A pod as containerd's CRI drives it through one shim: a container that stands for it first, others that come and go, the first one last.
#include <gmock/gmock.h>

#include <csignal>
#include <thread>

#include "testing/task_fixture.h"

namespace wyvern::shim {
namespace {

using testing::ElementsAre;

class PodTest : public TaskFixture {
 protected:
  // As task manager and shim of 1.7 do for each: Create, Connect, Wait, Start.
  void Run(const std::string& id, const std::string& script) {
    ASSERT_TRUE(Create(id, script));
    task_pb::ConnectRequest connect;
    connect.set_id(id);
    const auto connected = Call<task_pb::ConnectResponse>("Connect", connect);
    ASSERT_TRUE(connected);
    EXPECT_GT(connected->task_pid(), 0U);
    ASSERT_TRUE(Start(id));
  }

  // The answer comes before the process's end.
  bool ShutsDown() {
    for (int i = 0; i < 1000 && !shut_down_; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return shut_down_;
  }

  // The stop of a container or a pod: kill, hear of it, delete; containerd then asks for the shim's end, which is not meant for the others.
  void StopAndRemove(const std::string& id) {
    ASSERT_TRUE(Kill(id, "", SIGKILL, true));
    EXPECT_EQ(Wait(id)->exit_status(), 137U);
    EXPECT_EQ(Delete(id)->exit_status(), 137U);
    EXPECT_EQ(ShutdownCode(), Code::kOk);
  }
};

TEST_F(PodTest, Scenario42_ContainersComeGoAndComeAgainUntilThePodEnds) {
  Run("pod", "sleep 60");
  Run("web", "sleep 60");
  Run("sidecar", "sleep 60");
  StopAndRemove("web");
  EXPECT_EQ(State("sidecar")->status(), task_pb::RUNNING);
  Run("web", "exit 3");
  EXPECT_EQ(Wait("web")->exit_status(), 3U);
  EXPECT_EQ(Delete("web")->exit_status(), 3U);
  StopAndRemove("sidecar");
  EXPECT_EQ(State("pod")->status(), task_pb::RUNNING) << "with nobody in it";
  EXPECT_FALSE(shut_down_);
  Run("late", "sleep 60");
  StopAndRemove("late");
  EXPECT_EQ(sandboxes_, 1);
  StopAndRemove("pod");
  EXPECT_TRUE(ShutsDown());
  EXPECT_THAT(events_.LinesOf("web"),
              ElementsAre("create web", "start web", "exit web 137", "delete web 137", "create web",
                          "start web", "exit web 3", "delete web 3"));
}

TEST_F(PodTest, Scenario44_WhatStandsForThePodEndsBeforeTheOthers) {
  Run("pod", "sleep 60");
  Run("web", "sleep 60");
  StopAndRemove("pod");
  EXPECT_FALSE(shut_down_) << "one is there still";
  EXPECT_EQ(State("web")->status(), task_pb::RUNNING);
  StopAndRemove("web");
  EXPECT_TRUE(ShutsDown());
}

}  // namespace
}  // namespace wyvern::shim
