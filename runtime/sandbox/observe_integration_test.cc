// What a sandbox shows of itself: figures by everybody's word, and events, also of guests and VMMs that hang, lie or flood.
#include <gmock/gmock.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <thread>

#include "observe/sandbox_families.h"
#include "sandbox/testing/fake_agent.h"
#include "sandbox/testing/sandbox_fixture.h"

namespace wyvern::runtime {
namespace {

using observe::EventKind;
using std::chrono::seconds;
using std::chrono::steady_clock;
using testing::HasSubstr;

class ObserveTest : public SandboxFixture {
 protected:
  // A sandbox whose agent is agent_, on a VMM that watch_ plays.
  void BootFake() {
    Backend backend;
    backend.make_machine = [this](const MachineOptions&) {
      return MakeHollowMachineWithAgent(agent_.Connector(), watch_);
    };
    auto sandbox = StartSandbox(OptionsOf(MakeBundle("box", {}), "box"), backend);
    ASSERT_TRUE(sandbox.has_value()) << sandbox.error().message();
    sandbox_ = std::move(*sandbox);
  }

  void Running(const std::string& id, const BundleOptions& options = {}) {
    auto io = sandbox_->CreateContainer(ContainerOf(id, MakeBundle(id, options), false, false));
    ASSERT_TRUE(io.has_value()) << io.error().message();
    ASSERT_TRUE(sandbox_->StartProcess(id, "").has_value());
  }

  // "started box, exited c status 3", …
  std::string EventsSoFar() {
    std::string text;
    for (const observe::Event& event : sandbox_->Events().Kept()) {
      text += (text.empty() ? "" : ", ") + std::string(observe::EventName(event.kind)) +
              (event.container.empty() ? "" : " " + event.container) +
              (event.kind == EventKind::kStarted ? "" : " " + event.text);
    }
    return text;
  }

  bool EventuallyHas(EventKind kind, uint64_t count) {
    for (int i = 0; i < 1000 && sandbox_->Events().Totals()[kind] < count; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return sandbox_->Events().Totals()[kind] >= count;
  }

  FakeAgent agent_;
  const std::shared_ptr<DiskWatch> watch_ = std::make_shared<DiskWatch>();
};

TEST_F(ObserveTest, FiguresOfHostVmmGuestAndContainers) {
  Boot({});
  BundleOptions options;
  options.args = {"sleep", "1000"};
  Running("c", options);
  const observe::Observation seen = sandbox_->Observe();
  std::string roles;
  for (const observe::ProcessUsage& process : seen.processes) {
    roles += process.role + (process.container.empty() ? "" : "(" + process.container + ")") + " ";
    EXPECT_GT(process.pss, 0U) << process.role;
    EXPECT_EQ(process.pid == getpid(), process.role == "owner");
  }
  EXPECT_EQ(roles, "owner fs vmm anchor(c) ");
  ASSERT_TRUE(seen.vmm.has_value());
  EXPECT_EQ(seen.vmm->counters.at("vcpus.running"), 1U);
  ASSERT_TRUE(seen.guest.has_value()) << "the real agent says it";
  EXPECT_GT(seen.guest->memory_total, seen.guest->memory_free);
  EXPECT_GE(seen.guest->cpus_online, 1U);
  ASSERT_EQ(seen.containers.size(), 1U);
  EXPECT_EQ(seen.containers[0].id, "c");
  EXPECT_EQ(seen.container_count, 1U);
  EXPECT_TRUE(sandbox_->Signal("c", "", SIGKILL, true).has_value());
  EXPECT_EQ(sandbox_->Wait("c", "")->status, 137U);
  EXPECT_EQ(EventsSoFar(), "started, started c, exited c status 137");
}

TEST_F(ObserveTest, StartIsToldBeforeTheEndOfWhatDiesAtOnce) {
  Boot({});
  BundleOptions options;
  options.args = {"sh", "-c", "exit 3"};
  std::string expected = "started";
  for (const std::string id : {"a", "b", "c", "d"}) {
    EXPECT_EQ(Run(id, options).status, 3U);
    expected += ", started " + id + ", exited " + id + " status 3";
  }
  EXPECT_EQ(EventsSoFar(), expected);
}

TEST_F(ObserveTest, GuestThatHangsCostsASecondAndItsOwnFigures) {
  BootFake();
  Running("c");
  agent_.Hang("GuestUsage");
  const auto begin = steady_clock::now();
  const observe::Observation seen = sandbox_->Observe();
  EXPECT_LT(steady_clock::now() - begin, seconds(3));
  EXPECT_FALSE(seen.guest.has_value());
  EXPECT_TRUE(seen.containers.empty());
  EXPECT_TRUE(seen.vmm.has_value());
  EXPECT_GE(seen.processes.size(), 4U) << "owner, VMM, file server, anchor";
}

TEST_F(ObserveTest, ContainersOfAGuestThatHangsAreNotWaitedForOneByOne) {
  BootFake();
  for (const char* id : {"c1", "c2", "c3", "c4"}) {
    Running(id);
  }
  agent_.Hang("ContainerStats");
  const auto begin = steady_clock::now();
  const observe::Observation seen = sandbox_->Observe();
  EXPECT_LT(steady_clock::now() - begin, seconds(3));
  EXPECT_TRUE(seen.guest.has_value());
  EXPECT_TRUE(seen.containers.empty());
  EXPECT_EQ(seen.container_count, 4U);
}

TEST_F(ObserveTest, NewsOfTheVmmAreEventsAndNoDeath) {
  BootFake();
  watch_->events({MachineEvent::Kind::kResized, "2 vCPUs"});
  watch_->events({MachineEvent::Kind::kHotplugFailed, "attach disk: \x1b[2J"});
  EXPECT_EQ(EventsSoFar(), "started, resized 2 vCPUs, hotplug-failed attach disk: ?[2J");
  Running("c");  // it lives
}

TEST_F(ObserveTest, OutOfMemoryOfAContainerIsAnEventAndAFloodIsBounded) {
  BootFake();
  Running("c");
  agent_.SendOom("c", 5000);
  agent_.SendOom("no-such-container", 100);
  EXPECT_TRUE(EventuallyHas(EventKind::kOom, 1)) << "nobody listens for OOM callbacks";
  EXPECT_LE(sandbox_->Events().Kept().size(), observe::kKept);
  EXPECT_THAT(EventsSoFar(), HasSubstr("oom c the guest killed a process"));
  EXPECT_THAT(EventsSoFar(), testing::Not(HasSubstr("no-such")));
}

TEST_F(ObserveTest, DeathIsTheLastEventAndFiguresOfADeadSandboxAreQuick) {
  BootFake();
  Running("c");
  watch_->events({MachineEvent::Kind::kGuestPanic, "the guest kernel panicked"});
  ASSERT_TRUE(EventuallyHas(EventKind::kDied, 1));
  EXPECT_THAT(EventsSoFar(), testing::EndsWith("died the guest kernel panicked"));
  const auto begin = steady_clock::now();
  const observe::Observation seen = sandbox_->Observe();
  EXPECT_LT(steady_clock::now() - begin, seconds(1));
  EXPECT_FALSE(seen.vmm.has_value());
  EXPECT_FALSE(seen.guest.has_value());
  const std::string text =
      observe::FamiliesOf({"default", "box"}, seen, sandbox_->Events().Totals()).Text();
  EXPECT_THAT(text, HasSubstr("event=\"died\"} 1\n"));
}

}  // namespace
}  // namespace wyvern::runtime
