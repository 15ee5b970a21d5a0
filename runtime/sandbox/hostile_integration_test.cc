// Guests that are hung, slow or hostile: whatever they do, a container can be killed and deleted, and nothing is left on the host.
#include <gmock/gmock.h>

#include <atomic>
#include <csignal>
#include <future>
#include <thread>

#include "sandbox/testing/fake_agent.h"
#include "sandbox/testing/sandbox_fixture.h"

namespace wyvern::runtime {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;
using testing::HasSubstr;

class HostileGuestTest : public SandboxFixture {
 protected:
  HostileGuestTest() { patience_ = {milliseconds(600), milliseconds(600), milliseconds(300)}; }

  // A sandbox whose agent is agent_.
  void BootFake() {
    Backend backend;
    backend.make_machine = [this](const MachineOptions&) {
      return MakeHollowMachineWithAgent(agent_.Connector());
    };
    backend.patience = patience_;
    auto sandbox = StartSandbox(OptionsOf(MakeBundle("box", {}), "box"), backend);
    ASSERT_TRUE(sandbox.has_value()) << sandbox.error().message();
    sandbox_ = std::move(*sandbox);
    sandbox_->OnDeath([this](const std::string& reason) { died_.set_value(reason); });
  }

  void Running(const std::string& id) {
    Created(id);
    ASSERT_TRUE(sandbox_->StartProcess(id, "").has_value());
  }

  void Created(const std::string& id) {
    auto io = sandbox_->CreateContainer(ContainerOf(id, MakeBundle(id, {}), false, false));
    ASSERT_TRUE(io.has_value()) << io.error().message();
  }

  // Empty: it lives.
  std::string Death() {
    auto reason = died_.get_future();
    return reason.wait_for(std::chrono::seconds(5)) == std::future_status::ready ? reason.get()
                                                                                 : "";
  }

  FakeAgent agent_;
  std::promise<std::string> died_;
};

TEST_F(HostileGuestTest, AgentThatHangsDoesNotKeepAContainer) {
  Boot({});
  BundleOptions options;
  options.args = {"sleep", "1000"};
  ASSERT_TRUE(sandbox_->CreateContainer(ContainerOf("c", MakeBundle("c", options), false, false))
                  .has_value());
  ASSERT_TRUE(sandbox_->StartProcess("c", "").has_value());
  sandbox_->OnDeath([this](const std::string& reason) { died_.set_value(reason); });
  const auto record = LoadState(StateDirectory(state_dir_, "default", "box"));
  ASSERT_TRUE(record.has_value());
  for (const ProcessRecord& process : record->processes) {
    if (process.role == "vmm") {
      ASSERT_EQ(kill(process.pid, SIGSTOP), 0);
    }
  }
  const auto begin = steady_clock::now();
  EXPECT_TRUE(sandbox_->Signal("c", "", SIGKILL, true).has_value());
  EXPECT_EQ(sandbox_->Wait("c", "")->status, 137U);
  EXPECT_EQ(sandbox_->DeleteProcess("c", "")->status, 137U);
  EXPECT_LT(steady_clock::now() - begin, std::chrono::seconds(20));
  EXPECT_THAT(Death(), HasSubstr("container c cannot be killed"));
}

TEST_F(HostileGuestTest, InitThatOutlivesSigkillIsTheEndOfTheMachine) {
  BootFake();
  Running("c");
  agent_.Ignore(true);
  EXPECT_TRUE(sandbox_->Signal("c", "", SIGKILL, false).has_value());
  EXPECT_EQ(sandbox_->Wait("c", "")->status, 137U);
  EXPECT_THAT(Death(), HasSubstr("did not end within 600 ms of SIGKILL"));
  EXPECT_EQ(sandbox_->DeleteProcess("c", "")->status, 137U);
}

TEST_F(HostileGuestTest, AgentThatSaysItHasFinishedHasToSayHow) {
  BootFake();
  Running("c");
  agent_.Refuse("SignalProcess", Code::kNotFound);
  EXPECT_FALSE(sandbox_->Signal("c", "", SIGKILL, false).has_value());
  EXPECT_EQ(sandbox_->Wait("c", "")->status, 137U);
  EXPECT_THAT(Death(), HasSubstr("did not end"));
}

TEST_F(HostileGuestTest, AgentThatDoesNotKeepToGuestAllowIsNoAgent) {
  SandboxOptions options = OptionsOf(MakeBundle("box", {}), "box");
  auto config = std::make_shared<Config>(*options.config);
  config->guest.allow = {"signal", "exec"};
  options.config = config;
  Backend backend;
  backend.make_machine = [this](const MachineOptions& machine) {
    EXPECT_EQ(machine.allow, "signal,exec");
    return MakeHollowMachineWithAgent(agent_.Connector());
  };
  const auto start = [&] { return CodeOf(StartSandbox(options, backend)); };
  EXPECT_EQ(start(), Code::kFailedPrecondition);  // an old one, which knows no policy
  agent_.Allow({"exec", "signal", "stdin"});
  EXPECT_EQ(start(), Code::kFailedPrecondition);
  agent_.Allow({"exec"});
  EXPECT_EQ(start(), Code::kFailedPrecondition);
  agent_.Allow({"exec", "signal"});
  EXPECT_EQ(start(), Code::kOk);
}

TEST_F(HostileGuestTest, SlowGuestThatObeysLives) {
  patience_.kill_answer = patience_.kill_exit = milliseconds(1500);
  BootFake();
  Running("a");
  Running("b");
  agent_.Delay(milliseconds(500));
  EXPECT_TRUE(sandbox_->Signal("a", "", SIGKILL, true).has_value());
  EXPECT_EQ(sandbox_->Wait("a", "")->status, 137U);
  EXPECT_TRUE(sandbox_->DeleteProcess("a", "").has_value());
  EXPECT_EQ(sandbox_->State("b", "")->status, ProcessStatus::kRunning);
  std::this_thread::sleep_for(milliseconds(2500));  // the limits are over
  EXPECT_EQ(sandbox_->State("b", "")->status, ProcessStatus::kRunning);
}

TEST_F(HostileGuestTest, AgentThatDoesNotTellOfAnExitIsTheEndOfTheMachine) {
  agent_.Refuse("WaitProcess", Code::kNotFound);
  BootFake();
  Created("c");
  EXPECT_EQ(sandbox_->Wait("c", "")->status, 137U);
  EXPECT_THAT(Death(), HasSubstr("the end of container c cannot be learnt"));
  EXPECT_EQ(sandbox_->DeleteProcess("c", "")->status, 137U);
}

TEST_F(HostileGuestTest, ExecWhoseEndIsNotToldIsTakenForDead) {
  BootFake();
  Running("c");
  agent_.Refuse("WaitProcess", Code::kInternal);
  ASSERT_TRUE(sandbox_->AddExec("c", "e", R"({"cwd":"/","user":{},"args":["x"]})", {}).has_value());
  EXPECT_EQ(sandbox_->Wait("c", "e")->status, 137U);
  agent_.Refuse("DeleteProcess", Code::kInternal);
  EXPECT_EQ(sandbox_->DeleteProcess("c", "e")->status, 137U);
  EXPECT_EQ(sandbox_->State("c", "")->status, ProcessStatus::kRunning);
}

TEST_F(HostileGuestTest, AgentThatRefusesToDeleteKeepsNothing) {
  BootFake();
  Running("a");
  Running("b");
  agent_.Exit("a", 3);
  agent_.Exit("b", 4);
  EXPECT_EQ(sandbox_->Wait("a", "")->status, 3U);
  EXPECT_EQ(sandbox_->Wait("b", "")->status, 4U);
  agent_.Refuse("DeleteProcess", Code::kUnknown);
  EXPECT_EQ(sandbox_->DeleteProcess("a", "")->status, 3U);
  EXPECT_EQ(sandbox_->ContainerIds(), std::vector<std::string>{"b"});
  EXPECT_EQ(sandbox_->Pids("b")->size(), 1U);
  EXPECT_TRUE(sandbox_->Stats("b").has_value());  // it lives
  EXPECT_EQ(sandbox_->DeleteProcess("b", "")->status, 4U);
  EXPECT_THAT(Death(), HasSubstr("its last container b cannot be deleted"));
}

TEST_F(HostileGuestTest, StatusThatTheGuestToldOutlivesIt) {
  config_->timeouts.shutdown = std::chrono::seconds(2);
  BootFake();
  Running("c");
  agent_.Hang("SyncFilesystems");
  agent_.Exit("c", 0);
  std::this_thread::sleep_for(milliseconds(200));
  EXPECT_FALSE(sandbox_->State("c", "")->exit.has_value());  // its files are being written
  const auto record = LoadState(StateDirectory(state_dir_, "default", "box"));
  ASSERT_TRUE(record.has_value());
  for (const ProcessRecord& process : record->processes) {
    ASSERT_EQ(kill(process.pid, SIGKILL), 0);
  }
  EXPECT_THAT(Death(), HasSubstr("died"));
  EXPECT_EQ(sandbox_->Wait("c", "")->status, 0U);
}

TEST_F(HostileGuestTest, NeverStartedIsDeletedFromAGuestThatDoesNotKill) {
  BootFake();
  Created("c");
  agent_.Ignore(true);
  EXPECT_EQ(sandbox_->DeleteProcess("c", "")->status, 137U);
  EXPECT_THAT(Death(), HasSubstr("did not end"));
}

TEST_F(HostileGuestTest, ShutdownEndsADeleteThatWaitsForTheGuest) {
  patience_.kill_exit = std::chrono::seconds(60);
  BootFake();
  Created("c");
  agent_.Ignore(true);
  auto deleted = std::async(std::launch::async, [&] { return sandbox_->DeleteProcess("c", ""); });
  std::this_thread::sleep_for(milliseconds(100));
  const auto begin = steady_clock::now();
  EXPECT_TRUE(sandbox_->Shutdown().has_value());
  EXPECT_EQ(deleted.get()->status, 137U);
  EXPECT_LT(steady_clock::now() - begin, std::chrono::seconds(10));
}

TEST_F(HostileGuestTest, OomOfTheGuestAsAWholeIsToldOfTheContainerThatPaid) {
  BootFake();
  Running("c");
  std::promise<std::string> told;
  sandbox_->OnOom([&](const std::string& id) { told.set_value(id); });
  agent_.SendOom("other", 3, /*of_guest=*/true);
  agent_.SendOom("c", 1, /*of_guest=*/true);
  auto id = told.get_future();
  ASSERT_EQ(id.wait_for(std::chrono::seconds(10)), std::future_status::ready);
  EXPECT_EQ(id.get(), "c");
}

TEST_F(HostileGuestTest, AgentIsToldWhoseIdlePageCacheGoesBack) {
  for (const auto& [configured, told] :
       {std::pair(Config::Memory::Reclaim::kNever, agent_pb::CACHE_RECLAIM_NEVER),
        std::pair(Config::Memory::Reclaim::kLimited, agent_pb::CACHE_RECLAIM_LIMITED),
        std::pair(Config::Memory::Reclaim::kAlways, agent_pb::CACHE_RECLAIM_ALWAYS)}) {
    config_->memory.reclaim = configured;
    BootFake();
    EXPECT_EQ(agent_.sandbox().cache_reclaim(), told);
    EXPECT_TRUE(sandbox_->Shutdown().has_value());
    sandbox_.reset();
  }
}

TEST_F(HostileGuestTest, OomIsToldOfContainersThatExistAndOneAtATime) {
  BootFake();
  Running("c");
  std::atomic<int> told{0};
  std::promise<void> first;
  std::promise<void> go_on;
  sandbox_->OnOom([&](const std::string& id) {
    EXPECT_EQ(id, "c");
    if (++told == 1) {
      first.set_value();
      go_on.get_future().wait();
    }
  });
  agent_.SendOom("other", 10);
  agent_.SendOom(std::string(10'000, 'x'), 3);
  agent_.SendOom("c", 500);
  first.get_future().wait();
  std::this_thread::sleep_for(milliseconds(300));
  EXPECT_EQ(told, 1);
  go_on.set_value();
  // The next one is news again.
  for (int i = 0; i < 500 && told < 2; ++i) {
    agent_.SendOom("c", 1);
    std::this_thread::sleep_for(milliseconds(10));
  }
  EXPECT_GE(told, 2);
  EXPECT_TRUE(sandbox_->Shutdown().has_value());  // nothing of it is told after that
  sandbox_.reset();
}

}  // namespace
}  // namespace wyvern::runtime
