// Acceptance scenarios of containerd shims, by their numbers, as far as the sandbox decides them: real agent and real crun on this host.
#include <gmock/gmock.h>

#include <csignal>
#include <filesystem>
#include <thread>

#include "sandbox/testing/sandbox_fixture.h"

namespace wyvern::runtime {
namespace {

using testing::HasSubstr;

class SandboxScenarioTest : public SandboxFixture {
 protected:
  // A container that runs `script`, started. Its output.
  UniqueFd StartShell(const std::string& id, const std::string& script) {
    BundleOptions options;
    options.args = {"sh", "-c", script};
    auto io = sandbox_->CreateContainer(ContainerOf(id, MakeBundle(id, options), false, true));
    EXPECT_TRUE(io.has_value()) << io.error().message();
    EXPECT_TRUE(sandbox_->StartProcess(id, "").has_value());
    return std::move(io->stdout_stream);
  }

  // A process of the container `id` from JSON: its output, and its status at the end of it.
  std::string ExecJson(const std::string& id, const std::string& process, bool terminal = false) {
    IoWanted wanted;
    wanted.stdout_stream = true;
    wanted.terminal = terminal;
    wanted.stdin_stream = terminal;
    auto io = sandbox_->AddExec(id, "e", process, wanted);
    EXPECT_TRUE(io.has_value()) << io.error().message();
    const auto started = sandbox_->StartProcess(id, "e");
    EXPECT_TRUE(started.has_value()) << started.error().message();
    std::string text = Drain(io->stdout_stream);
    const auto exit = sandbox_->Wait(id, "e");
    text += " [" + std::to_string(exit.has_value() ? exit->status : 999) + "]";
    EXPECT_TRUE(sandbox_->DeleteProcess(id, "e").has_value());
    return text;
  }

  void End(const std::string& id) {
    EXPECT_TRUE(sandbox_->Signal(id, "", SIGKILL, true).has_value());
    EXPECT_EQ(sandbox_->Wait(id, "")->status, 137U);
    EXPECT_TRUE(sandbox_->DeleteProcess(id, "").has_value());
  }

  static void ReadLine(FdRef fd) {
    std::array<std::byte, 1> byte{};
    while (ReadSome(fd, byte).value_or(0) == 1 && byte[0] != std::byte{'\n'}) {
    }
  }
};

TEST_F(SandboxScenarioTest, Scenario10_SignalsToPid1WithAndWithoutHandlers) {
  Boot({});
  for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGUSR1}) {
    const std::string number = std::to_string(signal);
    const std::string with = "with" + number;
    UniqueFd out =
        StartShell(with, "trap 'exit 40' " + number + "; echo ready; while :; do sleep 0.01; done");
    ReadLine(out);
    EXPECT_TRUE(sandbox_->Signal(with, "", signal, false).has_value());
    EXPECT_EQ(sandbox_->Wait(with, "")->status, 40U) << signal;
    EXPECT_TRUE(sandbox_->DeleteProcess(with, "").has_value());
  }
  // Pid 1 of a pid namespace without a handler: the kernel drops the signal.
  const UniqueFd out = StartShell("plain", "echo ready; exec sleep 1000");
  ReadLine(out);
  EXPECT_TRUE(sandbox_->Signal("plain", "", SIGTERM, false).has_value());
  EXPECT_TRUE(sandbox_->Signal("plain", "", SIGUSR1, false).has_value());
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_EQ(sandbox_->State("plain", "")->status, ProcessStatus::kRunning);
  End("plain");
}

TEST_F(SandboxScenarioTest, Scenario10_KillOfAnExecSparesTheRestAndKillOfAllDoesNot) {
  Boot({});
  UniqueFd out = StartShell("c", "sleep 1000 & echo ready; wait");
  ReadLine(out);
  for (const char* const exec : {"one", "two"}) {
    ASSERT_TRUE(
        sandbox_
            ->AddExec(
                "c", exec,
                R"({"cwd":"/","env":["PATH=/bin"],"user":{"uid":0,"gid":0},"args":["sleep","1000"]})",
                {})
            .has_value());
    ASSERT_TRUE(sandbox_->StartProcess("c", exec).has_value());
  }
  EXPECT_TRUE(sandbox_->Signal("c", "one", SIGTERM, false).has_value());
  EXPECT_EQ(sandbox_->Wait("c", "one")->status, 143U);
  EXPECT_EQ(sandbox_->State("c", "two")->status, ProcessStatus::kRunning);
  EXPECT_EQ(sandbox_->State("c", "")->status, ProcessStatus::kRunning);
  EXPECT_TRUE(sandbox_->Signal("c", "", SIGKILL, true).has_value());
  EXPECT_EQ(sandbox_->Wait("c", "")->status, 137U);
  EXPECT_EQ(sandbox_->Wait("c", "two")->status, 137U);
  EXPECT_EQ(Drain(out), "");  // nobody has it open any more
  EXPECT_TRUE(sandbox_->DeleteProcess("c", "").has_value());
}

TEST_F(SandboxScenarioTest, Scenario13_ChildrenEndWithPid1) {
  Boot({});
  const UniqueFd out = StartShell("c", "(trap '' TERM HUP; sleep 1000) & echo ready; exit 6");
  EXPECT_EQ(Drain(out), "ready\n");  // the child had it open, too
  EXPECT_EQ(sandbox_->Wait("c", "")->status, 6U);
  EXPECT_TRUE(sandbox_->DeleteProcess("c", "").has_value());
}

TEST_F(SandboxScenarioTest, Scenario16_OutputOfATerminalIsCompleteEachTime) {
  Boot({});
  const UniqueFd out = StartShell("c", "exec sleep 1000");
  std::string all;
  for (int i = 1; i <= 100000; ++i) {
    all += std::to_string(i) + "\r\n";
  }
  for (int round = 0; round < 5; ++round) {
    const std::string text = ExecJson(
        "c",
        R"({"cwd":"/","terminal":true,"env":["PATH=/bin"],"user":{"uid":0,"gid":0},"args":["busybox","seq","1","100000"]})",
        true);
    EXPECT_EQ(text.size(), all.size() + 4);
    EXPECT_TRUE(text == all + " [0]")
        << text.substr(text.size() - std::min<size_t>(60, text.size()));
  }
  End("c");
}

TEST_F(SandboxScenarioTest, Scenario27_ExecWithUserDirectoryEnvironmentCapabilitiesAndLabels) {
  Boot({});
  const UniqueFd out = StartShell("c", "exec sleep 1000");
  const std::string process =
      R"({"cwd":"/tmp","env":["PATH=/bin","WHO=exec"],"user":{"uid":1234,"gid":2345,"additionalGids":[7,8],"umask":63},)"
      R"("args":["sh","-c","busybox id -u; busybox id -G; pwd; echo $WHO; umask; grep -E ^Cap[EB] /proc/self/status; grep NoNew /proc/self/status"],)"
      R"("capabilities":{"bounding":["CAP_KILL"],"effective":["CAP_KILL"],"permitted":["CAP_KILL"],"inheritable":["CAP_KILL"],"ambient":["CAP_KILL"]},)"
      R"("noNewPrivileges":true,"apparmorProfile":"cri-containerd.apparmor.d","selinuxLabel":"system_u:system_r:container_t:s0:c1,c2"})";
  EXPECT_EQ(
      ExecJson("c", process),
      "1234\n2345 7 8\n/tmp\nexec\n0077\nCapEff:\t0000000000000020\nCapBnd:\t0000000000000020\n"
      "NoNewPrivs:\t1\n [0]");
  End("c");
}

TEST_F(SandboxScenarioTest, Scenario61_LimitsUmaskMissingDirectoryAndTheOrderOfTheEnvironment) {
  BundleOptions options;
  options.args = {"sh", "-c", "pwd; umask; ulimit -n; cat /proc/self/oom_score_adj"};
  options.process = R"(,"cwd":"/made/for/it","user":{"uid":0,"gid":0,"umask":23},"oomScoreAdj":77,)"
                    R"("rlimits":[{"type":"RLIMIT_NOFILE","soft":123,"hard":456}],)"
                    R"("env":["PATH=/bin","B=2","A=1","HOME=/made"])";
  Boot({});
  EXPECT_EQ(Run("c", options).out, "/made/for/it\n0027\n123\n77\n");
  options.args = {"busybox", "env"};
  EXPECT_EQ(Run("d", options).out, "PATH=/bin\nB=2\nA=1\nHOME=/made\n");
}

TEST_F(SandboxScenarioTest, Scenario65_UnknownAnnotationsAndFieldsAreNoError) {
  BundleOptions options;
  options.args = {"sh", "-c", "exit 4"};
  options.annotations =
      R"({"com.example.anything":"{","io.kubernetes.cri.container-name":"c","":"nothing"})";
  options.process = R"(,"someFieldOfTomorrow":{"a":[1,2]})";
  Boot(options);
  EXPECT_EQ(Run("c", options).status, 4U);
}

}  // namespace
}  // namespace wyvern::runtime
