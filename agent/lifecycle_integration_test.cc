// Containers and execs of a real agent with a real crun: lifecycle, exit statuses, signals, errors, what is left.
#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>
#include <fstream>
#include <future>
#include <thread>

#include "agent/testing/agent_process.h"

namespace wyvern::agent {
namespace {

namespace fs = std::filesystem;

class LifecycleTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!WhyNotHere().empty()) {
      GTEST_SKIP() << WhyNotHere();
    }
    agent = std::make_unique<AgentProcess>();
  }

  void StartSleeper(const std::string& id, bool own_pid_namespace = true) {
    ContainerConfig config;
    config.own_pid_namespace = own_pid_namespace;
    const auto created = agent->Create(id, config, {});
    ASSERT_TRUE(created.has_value()) << created.error().message();
    ASSERT_TRUE(agent->Start(id).has_value());
  }

  void KillAndDelete(const std::string& id) {
    EXPECT_TRUE(agent->Signal(id, "", SIGKILL).has_value());
    EXPECT_EQ(agent->Wait(id), 137);
    const auto deleted = agent->Delete(id);
    EXPECT_TRUE(deleted.has_value()) << deleted.error().message();
  }

  std::unique_ptr<AgentProcess> agent;
};

TEST_F(LifecycleTest, HelloTellsVersionsAndRefusesOtherProtocols) {
  v1::HelloRequest request;
  request.set_protocol(2);
  EXPECT_EQ(CodeOf(agent->Call<v1::HelloResponse>("Hello", request)), Code::kFailedPrecondition);
  request.set_protocol(1);
  const auto hello = agent->Call<v1::HelloResponse>("Hello", request);
  ASSERT_TRUE(hello.has_value());
  EXPECT_FALSE(hello->kernel_release().empty());
  EXPECT_GE(hello->cpus_online(), 1U);
  EXPECT_EQ(hello->timeline(0).name(), "agent-start");
}

// A process that crun still prepares has the default for every signal, and no second pid namespace protects it here.
TEST_F(LifecycleTest, StartIsAnsweredWhenTheContainersProgramRuns) {
  for (int i = 0; i < 20; ++i) {
    ContainerConfig config;
    config.own_pid_namespace = false;
    const auto created = agent->Create("s", config, {});
    ASSERT_TRUE(created.has_value()) << created.error().message();
    const std::string exe = "/proc/" + std::to_string(*created) + "/exe";
    EXPECT_NE(fs::read_symlink(exe).filename(), "busybox");
    ASSERT_TRUE(agent->Start("s").has_value());
    EXPECT_EQ(fs::read_symlink(exe).filename(), "busybox") << i;
    KillAndDelete("s");
  }
}

TEST_F(LifecycleTest, ProgramThatCannotRunOrIsOverAtOnceIsStartedAllTheSame) {
  EXPECT_EQ(agent->Run("t", {"true"}), 0);
  ContainerConfig config;
  config.args = {"/bin/busybox", "false"};
  ASSERT_TRUE(agent->Create("f", config, {}).has_value());
  ASSERT_TRUE(agent->Signal("f", "", SIGKILL).has_value());  // before it is started
  EXPECT_EQ(agent->Wait("f"), 137);
  EXPECT_FALSE(agent->Start("f").has_value());
  EXPECT_TRUE(agent->Delete("f").has_value());
}

TEST_F(LifecycleTest, ExitStatuses) {
  EXPECT_EQ(agent->Run("c0", {"true"}), 0);
  EXPECT_EQ(agent->Run("c7", {"sh", "-c", "exit 7"}), 7);
  EXPECT_EQ(agent->Run("c255", {"sh", "-c", "exit 255"}), 255);
  EXPECT_EQ(agent->Run("c0", {"sh", "-c", "exit 3"}), 3);  // an id may be used again
}

TEST_F(LifecycleTest, SignalsGive128PlusN) {
  for (const int signal : {SIGKILL}) {
    StartSleeper("k");
    EXPECT_TRUE(agent->Signal("k", "", signal).has_value());
    EXPECT_EQ(agent->Wait("k"), 128 + signal);
    EXPECT_EQ(CodeOf(agent->Signal("k", "", signal)), Code::kNotFound);
    EXPECT_TRUE(agent->Delete("k").has_value());
  }
  // The first process of a pid namespace ignores what it has no handler for; an exec does not.
  StartSleeper("e");
  for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGSEGV, SIGKILL}) {
    const std::string exec_id = "x" + std::to_string(signal);
    ASSERT_TRUE(agent->Exec("e", exec_id, {"sleep", "1000"}, {}).has_value());
    ASSERT_TRUE(agent->Start("e", exec_id).has_value());
    EXPECT_TRUE(agent->Signal("e", exec_id, signal).has_value());
    EXPECT_EQ(agent->Wait("e", exec_id), 128 + signal);
  }
  KillAndDelete("e");
}

TEST_F(LifecycleTest, MissingAndForbiddenBinariesFailCreateWithCrunsText) {
  ContainerConfig config;
  config.args = {"/bin/missing"};
  const auto missing = agent->Create("m", config, {});
  ASSERT_FALSE(missing.has_value());
  EXPECT_EQ(missing.error().code(), Code::kUnknown);
  EXPECT_NE(missing.error().message().find("executable file `/bin/missing` not found"),
            std::string::npos)
      << missing.error().message();
  config.args = {"/etc"};
  EXPECT_FALSE(agent->Create("m", config, {}).has_value());
  config.args = {"true"};
  EXPECT_TRUE(agent->Create("m", config, {}).has_value());  // the same id, usable at once
  KillAndDelete("m");
  EXPECT_TRUE(fs::is_empty(agent->dir() + "/containers"));
  EXPECT_TRUE(fs::is_empty(agent->dir() + "/scratch"));
}

TEST_F(LifecycleTest, MissingBinaryOfAnExecFailsStartAndHarmsNothing) {
  StartSleeper("c");
  ASSERT_TRUE(agent->Exec("c", "x", {"missing"}, {}).has_value());
  const auto started = agent->Start("c", "x");
  ASSERT_FALSE(started.has_value());
  EXPECT_NE(started.error().message().find("not found"), std::string::npos);
  EXPECT_EQ(agent->Wait("c", "x"), 127);
  EXPECT_TRUE(agent->Delete("c", "x").has_value());
  EXPECT_EQ(agent->RunExec("c", "y", {"true"}), 0);
  KillAndDelete("c");
}

TEST_F(LifecycleTest, WrongStatesAndUnknownNamesHaveTheirCodes) {
  EXPECT_EQ(CodeOf(agent->Start("nope")), Code::kNotFound);
  EXPECT_EQ(agent->Wait("nope"), -static_cast<int>(Code::kNotFound));
  EXPECT_EQ(CodeOf(agent->Create("../x", {}, {})), Code::kInvalidArgument);
  EXPECT_EQ(CodeOf(agent->Create("", {}, {})), Code::kInvalidArgument);
  StartSleeper("c");
  EXPECT_EQ(CodeOf(agent->Create("c", {}, {})), Code::kAlreadyExists);
  EXPECT_EQ(CodeOf(agent->Start("c")), Code::kFailedPrecondition);
  EXPECT_EQ(CodeOf(agent->Delete("c")), Code::kFailedPrecondition);
  EXPECT_EQ(CodeOf(agent->Signal("c", "x", 9)), Code::kNotFound);
  EXPECT_EQ(CodeOf(agent->Signal("c", "", 99)), Code::kInvalidArgument);
  ASSERT_TRUE(agent->Exec("c", "x", {"sleep", "1000"}, {}).has_value());
  EXPECT_EQ(CodeOf(agent->Exec("c", "x", {"true"}, {})), Code::kAlreadyExists);
  EXPECT_EQ(CodeOf(agent->Signal("c", "x", 9)), Code::kFailedPrecondition);
  ASSERT_TRUE(agent->Start("c", "x").has_value());
  EXPECT_EQ(CodeOf(agent->Delete("c", "x")), Code::kFailedPrecondition);
  ASSERT_TRUE(agent->Exec("c", "never", {"true"}, {}).has_value());
  EXPECT_TRUE(agent->Signal("c", "", SIGKILL).has_value());
  EXPECT_EQ(agent->Wait("c"), 137);
  EXPECT_EQ(agent->Wait("c", "x"), 137);  // ended with the container
  EXPECT_EQ(CodeOf(agent->Start("c", "never")), Code::kFailedPrecondition);
  EXPECT_EQ(CodeOf(agent->Exec("c", "late", {"true"}, {})), Code::kFailedPrecondition);
  EXPECT_TRUE(agent->Delete("c").has_value());
  EXPECT_EQ(CodeOf(agent->Delete("c")), Code::kNotFound);
}

TEST_F(LifecycleTest, CreatedButNeverStartedCanBeKilledAndDeleted) {
  ASSERT_TRUE(agent->Create("c", {}, {}).has_value());
  std::future<int> waiting = std::async(std::launch::async, [this] { return agent->Wait("c"); });
  EXPECT_TRUE(agent->Signal("c", "", SIGKILL, true).has_value());
  EXPECT_EQ(waiting.get(), 137);
  EXPECT_TRUE(agent->Delete("c").has_value());
}

TEST_F(LifecycleTest, TwentyExecsAtOnceKeepTheirStatuses) {
  StartSleeper("c");
  std::vector<std::future<std::pair<int, std::string>>> execs;
  execs.reserve(20);
  for (int i = 0; i < 20; ++i) {
    execs.push_back(std::async(std::launch::async, [this, i] {
      std::string out;
      const int status = agent->RunExec(
          "c", "x" + std::to_string(i),
          {"sh", "-c", "echo out" + std::to_string(i) + "; exit " + std::to_string(i)}, &out);
      return std::pair(status, out);
    }));
  }
  for (int i = 0; i < 20; ++i) {
    const auto [status, out] = execs[static_cast<size_t>(i)].get();
    EXPECT_EQ(status, i);
    EXPECT_EQ(out, "out" + std::to_string(i) + "\n");
  }
  KillAndDelete("c");
}

TEST_F(LifecycleTest, HundredsOfShortExecsLoseNoStatusAndLeakNothing) {
  StartSleeper("c");
  EXPECT_EQ(agent->RunExec("c", "warm", {"true"}), 0);
  const size_t fds = agent->OpenFds();
  for (int i = 0; i < 200; ++i) {
    ASSERT_EQ(agent->RunExec("c", "x", {"sh", "-c", "exit 42"}), 42) << i;
  }
  EXPECT_EQ(agent->OpenFds(), fds);
  KillAndDelete("c");
  EXPECT_TRUE(fs::is_empty(agent->dir() + "/containers"));
  EXPECT_TRUE(fs::is_empty(agent->dir() + "/scratch"));
  EXPECT_TRUE(fs::is_empty(agent->dir() + "/crun"));
}

TEST_F(LifecycleTest, Scenario13_InitExitEndsTheRestWithAndWithoutAPidNamespace) {
  for (const bool own : {true, false}) {
    const std::string id = own ? "own" : "shared";
    ContainerConfig config;
    config.own_pid_namespace = own;
    config.args = {"sh", "-c", "sleep 1000 & sleep 1000 & sleep 0.3"};
    ASSERT_TRUE(agent->Create(id, config, {}).has_value());
    ASSERT_TRUE(agent->Start(id).has_value());
    ASSERT_TRUE(agent->Exec(id, "x", {"sleep", "1000"}, {}).has_value());
    ASSERT_TRUE(agent->Start(id, "x").has_value());
    EXPECT_EQ(agent->Wait(id), 0);
    EXPECT_EQ(agent->Wait(id, "x"), 137);
    EXPECT_TRUE(agent->Delete(id).has_value());
    EXPECT_FALSE(fs::exists("/sys/fs/cgroup/wyvern-test/" + id));
  }
}

TEST_F(LifecycleTest, SignalToAllReachesEveryProcess) {
  StartSleeper("c", false);
  ASSERT_TRUE(agent->Exec("c", "x", {"sleep", "1000"}, {}).has_value());
  ASSERT_TRUE(agent->Start("c", "x").has_value());
  EXPECT_TRUE(agent->Signal("c", "", SIGTERM, true).has_value());
  EXPECT_EQ(agent->Wait("c", "x"), 143);
  EXPECT_EQ(agent->Wait("c"), 143);
  EXPECT_TRUE(agent->Delete("c").has_value());
}

TEST_F(LifecycleTest, PauseStopsAndResumeGoesOn) {
  const Stdio stdio = agent->MakeStdio("o");
  ContainerConfig config;
  config.args = {"sh", "-c", "while :; do echo tick; sleep 0.05; done"};
  ASSERT_TRUE(agent->Create("c", config, stdio).has_value());
  ASSERT_TRUE(agent->Start("c").has_value());
  (void)ReadUntil(stdio.out, "tick\ntick");
  ASSERT_TRUE(agent->Call<v1::Empty>("PauseContainer", ContainerRefOf("c")).has_value());
  ASSERT_TRUE(SetNonBlocking(stdio.out, true).has_value());
  std::this_thread::sleep_for(100ms);
  std::array<std::byte, 4096> buffer{};
  while (ReadSome(stdio.out, buffer)) {
  }
  std::this_thread::sleep_for(300ms);
  EXPECT_FALSE(ReadSome(stdio.out, buffer).has_value()) << "a paused container wrote";
  ASSERT_TRUE(agent->Call<v1::Empty>("ResumeContainer", ContainerRefOf("c")).has_value());
  ASSERT_TRUE(SetNonBlocking(stdio.out, false).has_value());
  (void)ReadUntil(stdio.out, "tick");
  // kill -9 works on a paused one, too.
  ASSERT_TRUE(agent->Call<v1::Empty>("PauseContainer", ContainerRefOf("c")).has_value());
  KillAndDelete("c");
}

TEST_F(LifecycleTest, StatsAndProcessesAreThoseOfTheGroup) {
  StartSleeper("c");
  ASSERT_TRUE(
      agent
          ->Exec("c", "x",
                 {"sh", "-c", "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; sleep 1000"}, {})
          .has_value());
  ASSERT_TRUE(agent->Start("c", "x").has_value());
  uint64_t usage = 0;
  for (int i = 0; i < 100 && usage < 20'000; ++i) {
    std::this_thread::sleep_for(20ms);
    const auto stats =
        agent->Call<v1::ContainerStatsResponse>("ContainerStats", ContainerRefOf("c"));
    ASSERT_TRUE(stats.has_value());
    usage = stats->cpu_usage_usec();
  }
  EXPECT_GE(usage, 20'000U);
  const auto list = agent->Call<v1::ListProcessesResponse>("ListProcesses", ContainerRefOf("c"));
  ASSERT_TRUE(list.has_value());
  int execs = 0;
  for (const auto& process : list->processes()) {
    execs += process.exec_id() == "x" ? 1 : 0;
  }
  EXPECT_GE(list->processes_size(), 2);
  EXPECT_EQ(execs, 1);
  EXPECT_TRUE(agent->Signal("c", "", SIGKILL).has_value());
  EXPECT_EQ(agent->Wait("c"), 137);
  // Readable between exit and Delete, gone after.
  EXPECT_TRUE(
      agent->Call<v1::ContainerStatsResponse>("ContainerStats", ContainerRefOf("c")).has_value());
  EXPECT_TRUE(agent->Delete("c").has_value());
  EXPECT_EQ(CodeOf(agent->Call<v1::ContainerStatsResponse>("ContainerStats", ContainerRefOf("c"))),
            Code::kNotFound);
}

bool HasMemoryController() {
  std::ifstream file("/sys/fs/cgroup/cgroup.controllers");
  std::string name;
  while (file >> name) {
    if (name == "memory") {
      return true;
    }
  }
  return false;
}

TEST_F(LifecycleTest, OutOfMemoryIsAnEventBeforeItIsAnExit) {
  if (!HasMemoryController()) {
    GTEST_SKIP() << "cgroup v2 has no memory controller here";
  }
  auto events =
      agent->client().OpenStream<v1::Empty, v1::Event>(AgentProcess::kService, "WatchEvents", {});
  ASSERT_TRUE(events.has_value());
  ContainerConfig config;
  config.memory_limit = 24U << 20;
  config.args = {"sh", "-c", "x=$(yes | head -c 100000000)"};
  const auto created = agent->Create("c", config, {});
  ASSERT_TRUE(created.has_value()) << created.error().message();
  const auto stats = agent->Call<v1::ContainerStatsResponse>("ContainerStats", ContainerRefOf("c"));
  ASSERT_TRUE(stats.has_value());
  EXPECT_EQ(stats->memory_limit(), config.memory_limit);
  EXPECT_GT(stats->memory_current(), 0U);
  ASSERT_TRUE(agent->Start("c").has_value());
  EXPECT_EQ(agent->Wait("c"), 137);
  const auto event = events->Read(1s);
  ASSERT_TRUE(event.has_value()) << event.error().message();
  const v1::Event oom = event->value_or(v1::Event());
  EXPECT_EQ(oom.container_id(), "c");
  EXPECT_TRUE(oom.has_oom());
  const auto after = agent->Call<v1::ContainerStatsResponse>("ContainerStats", ContainerRefOf("c"));
  ASSERT_TRUE(after.has_value());
  EXPECT_GE(after->memory_events().at("oom_kill"), 1U);
  EXPECT_TRUE(agent->Delete("c").has_value());
}

TEST_F(LifecycleTest, UpdateChangesTheLimits) {
  if (!HasMemoryController()) {
    GTEST_SKIP() << "cgroup v2 has no memory controller here";
  }
  StartSleeper("c");
  v1::UpdateRequest request;
  request.set_id("c");
  request.set_resources_json(R"({"memory":{"limit":67108864},"pids":{"limit":77}})");
  const auto updated = agent->Call<v1::Empty>("UpdateContainer", request);
  ASSERT_TRUE(updated.has_value()) << updated.error().message();
  const auto stats = agent->Call<v1::ContainerStatsResponse>("ContainerStats", ContainerRefOf("c"));
  ASSERT_TRUE(stats.has_value());
  EXPECT_EQ(stats->memory_limit(), 67108864U);
  EXPECT_EQ(stats->pids_limit(), 77U);
  EXPECT_GE(stats->pids_current(), 1U);
  KillAndDelete("c");
}

TEST_F(LifecycleTest, IdleAgentIsSmall) {
  StartSleeper("c");
  EXPECT_EQ(agent->RunExec("c", "x", {"true"}), 0);
  std::ifstream status("/proc/" + std::to_string(agent->pid()) + "/status");
  std::string line;
  long rss = 0;
  while (std::getline(status, line)) {
    if (line.starts_with("VmRSS:")) {
      rss = std::stol(line.substr(6));
    }
  }
  RecordProperty("agent_rss_kib", static_cast<int>(rss));
  EXPECT_GT(rss, 0);
  std::printf("agent VmRSS: %ld KiB\n", rss);
  KillAndDelete("c");
}

}  // namespace
}  // namespace wyvern::agent
