// Whole lives of containers through the sandbox library: real agent, real crun, real mounts, cgroups and anchors; only the VMM is not there.
#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <future>
#include <thread>

#include "sandbox/testing/sandbox_fixture.h"

namespace wyvern::runtime {
namespace {

using testing::HasSubstr;

class LifecycleTest : public SandboxFixture {
 protected:
  // A container that sleeps, started.
  void Sleeper(const std::string& id) {
    BundleOptions options;
    options.args = {"sleep", "1000"};
    auto io = sandbox_->CreateContainer(ContainerOf(id, MakeBundle(id, options), false, false));
    ASSERT_TRUE(io.has_value()) << io.error().message();
    ASSERT_TRUE(sandbox_->StartProcess(id, "").has_value());
  }

  Result<ProcessIo> Exec(const std::string& id, const std::string& exec_id,
                         const std::string& args) {
    IoWanted io;
    io.stdout_stream = true;
    return sandbox_->AddExec(
        id, exec_id,
        R"({"cwd":"/","env":["PATH=/bin"],"user":{"uid":0,"gid":0},"args":[)" + args + "]}", io);
  }
};

TEST_F(LifecycleTest, MissingBinaryFailsCreateAndLeavesNothing) {
  Boot({});
  BundleOptions missing;
  missing.args = {"/bin/missing"};
  auto io = sandbox_->CreateContainer(ContainerOf("box", MakeBundle("box", missing), false, false));
  ASSERT_FALSE(io.has_value());
  EXPECT_THAT(io.error().message(), HasSubstr("not found"));
  EXPECT_EQ(sandbox_->ContainerCount(), 0U);
  EXPECT_EQ(Run("box", {}).status, 0U);  // the same id, at once
}

TEST_F(LifecycleTest, BadBundlesAreNamedErrors) {
  Boot({});
  auto absent = sandbox_->CreateContainer(ContainerOf("a", dir_ + "/absent", false, false));
  EXPECT_EQ(CodeOf(absent), Code::kNotFound);
  std::filesystem::create_directory(dir_ + "/bad");
  ASSERT_TRUE(WriteFile(dir_ + "/bad/config.json", "not json").has_value());
  auto bad = sandbox_->CreateContainer(ContainerOf("b", dir_ + "/bad", false, false));
  EXPECT_EQ(CodeOf(bad), Code::kInvalidArgument);
  auto id = sandbox_->CreateContainer(ContainerOf("../x", dir_ + "/bad", false, false));
  EXPECT_EQ(CodeOf(id), Code::kInvalidArgument);
}

// An upgrade in place, or a package that is removed, while a sandbox lives.
TEST_F(LifecycleTest, Scenario35_ContainersToComeHaveTheAnchorThatWasThereFirst) {
  const std::string anchor = dir_ + "/anchor";
  std::filesystem::copy_file(WYVERN_ANCHOR_BINARY, anchor);
  config_->paths.anchor = anchor;
  Boot({});
  for (const char* now : {"another version's", ""}) {
    std::filesystem::remove(anchor);
    if (*now != 0) {
      ASSERT_TRUE(WriteFile(anchor, now).has_value());
    }
    BundleOptions options;
    options.args = {"sleep", "1000"};
    const std::string id = *now != 0 ? "replaced" : "removed";
    const auto io =
        sandbox_->CreateContainer(ContainerOf(id, MakeBundle(id, options), false, false));
    ASSERT_TRUE(io.has_value()) << io.error().message();
    const std::string proc = fmt::format("/proc/{}", sandbox_->State(id, "")->pid);
    EXPECT_EQ(*ReadFile(proc + "/comm"), "wyvern-anchor\n");
    EXPECT_EQ(std::filesystem::read_symlink(proc + "/exe"), anchor + " (deleted)");
    EXPECT_THAT(*ReadFile(proc + "/cmdline"), testing::StartsWith(anchor));
  }
}

TEST_F(LifecycleTest, MissingVolumeIsNamed) {
  Boot({});
  BundleOptions options;
  options.mounts =
      R"(,{"destination":"/v","type":"bind","source":"/absent-volume","options":["rbind"]})";
  auto io = sandbox_->CreateContainer(ContainerOf("v", MakeBundle("v", options), false, false));
  ASSERT_FALSE(io.has_value());
  EXPECT_THAT(io.error().message(),
              testing::AllOf(HasSubstr("mounts[3].source"), HasSubstr("/absent-volume")));
}

TEST_F(LifecycleTest, ExitStatusesAndOutput) {
  Boot({});
  BundleOptions options;
  options.args = {"sh", "-c", "echo -n out; exit 7"};
  const Ran ran = Run("c7", options);
  EXPECT_EQ(ran.status, 7U);
  EXPECT_EQ(ran.out, "out");
  options.args = {"sh", "-c", "kill -9 $$; exit 255"};
  EXPECT_EQ(Run("c255", options).status, 255U);
}

TEST_F(LifecycleTest, StdinReachesTheEnd) {
  Boot({});
  BundleOptions options;
  options.args = {"wc", "-c"};
  auto io = sandbox_->CreateContainer(ContainerOf("c", MakeBundle("c", options), true, true));
  ASSERT_TRUE(io.has_value()) << io.error().message();
  ASSERT_TRUE(sandbox_->StartProcess("c", "").has_value());
  auto writer = std::async(std::launch::async, [&] {
    static_cast<void>(WriteAll(io->stdin_stream, std::string(3'000'000, 'x')));
    io->stdin_stream.Reset();
  });
  EXPECT_EQ(Drain(io->stdout_stream), "3000000\n");
  EXPECT_EQ(sandbox_->Wait("c", "")->status, 0U);
  EXPECT_TRUE(sandbox_->DeleteProcess("c", "").has_value());
}

TEST_F(LifecycleTest, StatesAndCodes) {
  Boot({});
  EXPECT_EQ(CodeOf(sandbox_->Wait("no", "")), Code::kNotFound);
  EXPECT_EQ(CodeOf(sandbox_->StartProcess("no", "")), Code::kNotFound);
  BundleOptions options;
  options.args = {"sleep", "1000"};
  const std::string bundle = MakeBundle("c", options);
  ASSERT_TRUE(sandbox_->CreateContainer(ContainerOf("c", bundle, false, false)).has_value());
  EXPECT_EQ(CodeOf(sandbox_->CreateContainer(ContainerOf("c", bundle, false, false))),
            Code::kAlreadyExists);
  EXPECT_EQ(sandbox_->State("c", "")->status, ProcessStatus::kCreated);
  EXPECT_EQ(CodeOf(sandbox_->PauseContainer("c")), Code::kFailedPrecondition);
  ASSERT_TRUE(sandbox_->StartProcess("c", "").has_value());
  EXPECT_EQ(CodeOf(sandbox_->StartProcess("c", "")), Code::kFailedPrecondition);
  EXPECT_EQ(sandbox_->State("c", "")->status, ProcessStatus::kRunning);
  EXPECT_EQ(CodeOf(sandbox_->DeleteProcess("c", "")), Code::kFailedPrecondition);
  EXPECT_TRUE(sandbox_->PauseContainer("c").has_value());
  EXPECT_EQ(sandbox_->State("c", "")->status, ProcessStatus::kPaused);
  EXPECT_EQ(CodeOf(sandbox_->PauseContainer("c")), Code::kFailedPrecondition);
  EXPECT_TRUE(sandbox_->ResumeContainer("c").has_value());
  auto first = std::async(std::launch::async, [&] { return sandbox_->Wait("c", "")->status; });
  auto second = std::async(std::launch::async, [&] { return sandbox_->Wait("c", "")->status; });
  EXPECT_TRUE(sandbox_->Signal("c", "", SIGKILL, false).has_value());
  EXPECT_EQ(first.get(), 137U);
  EXPECT_EQ(second.get(), 137U);
  EXPECT_EQ(CodeOf(sandbox_->Signal("c", "", SIGKILL, false)), Code::kNotFound);
  EXPECT_EQ(sandbox_->State("c", "")->status, ProcessStatus::kStopped);
  EXPECT_EQ(sandbox_->DeleteProcess("c", "")->status, 137U);
  EXPECT_EQ(CodeOf(sandbox_->DeleteProcess("c", "")), Code::kNotFound);
}

TEST_F(LifecycleTest, CreatedNeverStartedIsDeleted) {
  Boot({});
  ASSERT_TRUE(
      sandbox_->CreateContainer(ContainerOf("c", MakeBundle("c", {}), false, false)).has_value());
  EXPECT_TRUE(sandbox_->Signal("c", "", SIGKILL, true).has_value());
  EXPECT_EQ(sandbox_->Wait("c", "")->status, 137U);
  EXPECT_TRUE(sandbox_->DeleteProcess("c", "").has_value());
  ASSERT_TRUE(
      sandbox_->CreateContainer(ContainerOf("c", MakeBundle("c", {}), false, false)).has_value());
  EXPECT_TRUE(sandbox_->DeleteProcess("c", "").has_value());
}

TEST_F(LifecycleTest, Execs) {
  Boot({});
  Sleeper("c");
  auto io = Exec("c", "e", R"("sh","-c","echo hi; exit 3")");
  ASSERT_TRUE(io.has_value()) << io.error().message();
  EXPECT_EQ(CodeOf(Exec("c", "e", R"("true")")), Code::kAlreadyExists);
  EXPECT_EQ(CodeOf(sandbox_->Signal("c", "e", SIGKILL, false)), Code::kFailedPrecondition);
  ASSERT_TRUE(sandbox_->StartProcess("c", "e").has_value());
  EXPECT_EQ(Drain(io->stdout_stream), "hi\n");
  EXPECT_EQ(sandbox_->Wait("c", "e")->status, 3U);
  EXPECT_EQ(sandbox_->DeleteProcess("c", "e")->status, 3U);
  ASSERT_TRUE(Exec("c", "m", R"("missing")").has_value());
  EXPECT_FALSE(sandbox_->StartProcess("c", "m").has_value());
  EXPECT_EQ(sandbox_->Wait("c", "m")->status, 127U);
  EXPECT_TRUE(sandbox_->DeleteProcess("c", "m").has_value());
  EXPECT_EQ(CodeOf(Exec("c", "x", "7")), Code::kInvalidArgument);
  EXPECT_EQ(sandbox_->Pids("c")->size(), 1U);
  EXPECT_TRUE(sandbox_->Signal("c", "", SIGKILL, true).has_value());
  EXPECT_EQ(sandbox_->Wait("c", "")->status, 137U);
  EXPECT_TRUE(sandbox_->DeleteProcess("c", "").has_value());
}

TEST_F(LifecycleTest, ExecsInTheGuestItself) {
  Boot({});
  EXPECT_EQ(CodeOf(sandbox_->StartProcess("", "g")), Code::kNotFound);
  EXPECT_EQ(CodeOf(sandbox_->DeleteProcess("", "")), Code::kNotFound);
  // Without any container, and beside one.
  for (const bool beside : {false, true}) {
    if (beside) {
      Sleeper("c");
    }
    auto io = Exec("", "g", R"("sh","-c","cat /proc/$PPID/comm; exit 7")");
    ASSERT_TRUE(io.has_value()) << io.error().message();
    EXPECT_EQ(CodeOf(Exec("", "g", R"("true")")), Code::kAlreadyExists);
    EXPECT_EQ(CodeOf(sandbox_->Signal("", "g", SIGKILL, false)), Code::kFailedPrecondition);
    ASSERT_TRUE(sandbox_->StartProcess("", "g").has_value());
    EXPECT_EQ(Drain(io->stdout_stream), "wyvern-agent\n");
    EXPECT_EQ(sandbox_->Wait("", "g")->status, 7U);
    EXPECT_EQ(sandbox_->DeleteProcess("", "g")->status, 7U);
  }
  EXPECT_EQ(sandbox_->ContainerCount(), 1U);
  ASSERT_TRUE(Exec("", "m", R"("missing")").has_value());
  const auto started = sandbox_->StartProcess("", "m");
  EXPECT_EQ(CodeOf(started), Code::kNotFound);
  EXPECT_THAT(started.error().message(), HasSubstr("\"missing\" not found in the guest"));
  EXPECT_EQ(sandbox_->Wait("", "m")->status, 127U);
  EXPECT_TRUE(sandbox_->DeleteProcess("", "m").has_value());
  // One that runs at the end is let go.
  ASSERT_TRUE(Exec("", "s", R"("sleep","5")").has_value());
  ASSERT_TRUE(sandbox_->StartProcess("", "s").has_value());
  auto waiting = std::async(std::launch::async, [&] { return sandbox_->Wait("", "s")->status; });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_TRUE(sandbox_->Shutdown().has_value());
  EXPECT_EQ(waiting.get(), 137U);
}

TEST_F(LifecycleTest, ExecInTheGuestItselfIsRefusedUnlessAllowed) {
  config_->guest.debug_exec = false;
  config_->origins["guest.debug_exec"] = "/etc/wyvern/wyvern.yaml:7";
  Boot({});
  const auto io = Exec("", "g", R"("true")");
  EXPECT_EQ(CodeOf(io), Code::kFailedPrecondition);
  EXPECT_THAT(io.error().message(),
              testing::AllOf(HasSubstr("guest.debug_exec"), HasSubstr("wyvern.yaml:7")));
}

TEST_F(LifecycleTest, VolumesAndRootfsList) {
  Boot({});
  std::filesystem::create_directory(dir_ + "/volume");
  ASSERT_TRUE(WriteFile(dir_ + "/volume/in", "from host\n").has_value());
  for (const char* name : {"upper", "work"}) {
    std::filesystem::create_directory(dir_ + "/" + name);
  }
  BundleOptions options;
  options.args = {
      "sh", "-c",
      "cat /v/in && echo guest > /v/out && touch /new && ! touch /r/no 2>/dev/null && echo done"};
  options.mounts = R"(,{"destination":"/v","type":"bind","source":")" + dir_ +
                   R"(/volume","options":["rbind"]},)" +
                   R"({"destination":"/r","type":"bind","source":")" + dir_ +
                   R"(/root","options":["bind","ro"]})";
  ContainerOptions container = ContainerOf("c", MakeBundle("c", options), false, true);
  container.rootfs = {
      {"overlay",
       "overlay",
       "",
       {"lowerdir=" + dir_ + "/root", "upperdir=" + dir_ + "/upper", "workdir=" + dir_ + "/work"}}};
  auto io = sandbox_->CreateContainer(container);
  ASSERT_TRUE(io.has_value()) << io.error().message();
  ASSERT_TRUE(sandbox_->StartProcess("c", "").has_value());
  EXPECT_EQ(Drain(io->stdout_stream), "from host\ndone\n");
  EXPECT_EQ(sandbox_->Wait("c", "")->status, 0U);
  EXPECT_TRUE(sandbox_->DeleteProcess("c", "").has_value());
  EXPECT_EQ(*ReadFile(dir_ + "/volume/out"), "guest\n");
  EXPECT_TRUE(std::filesystem::exists(dir_ + "/upper/new"));
  EXPECT_FALSE(std::filesystem::exists(dir_ + "/root/new"));
  EXPECT_EQ(MountsBelow(dir_)->size(), 0U);
}

// Who copies by the anchor's pid writes there.
TEST_F(LifecycleTest, ExportsAreNodevAndTheAnchorsRootIsTheContainers) {
  Boot({});
  Sleeper("c");
  struct statvfs info = {};
  ASSERT_EQ(statvfs("/run/wyvern/share/c0-root", &info), 0);
  EXPECT_EQ(info.f_flag & (ST_NODEV | ST_NOSUID), unsigned{ST_NODEV | ST_NOSUID});
  const std::string anchor = "/proc/" + std::to_string(sandbox_->State("c", "")->pid) + "/root";
  ASSERT_EQ(statvfs(anchor.c_str(), &info), 0);
  EXPECT_EQ(info.f_flag & (ST_NODEV | ST_NOSUID | ST_RDONLY), 0U);
  EXPECT_TRUE(std::filesystem::exists(anchor + "/bin/busybox"));
  BundleOptions options;
  options.args = {"sleep", "1000"};
  options.read_only_root = true;
  ASSERT_TRUE(sandbox_->CreateContainer(ContainerOf("ro", MakeBundle("ro", options), false, false))
                  .has_value());
  const std::string other = "/proc/" + std::to_string(sandbox_->State("ro", "")->pid) + "/root";
  ASSERT_EQ(statvfs(other.c_str(), &info), 0);
  EXPECT_EQ(info.f_flag & ST_RDONLY, unsigned{ST_RDONLY});
}

TEST_F(LifecycleTest, CachesOfRootsAndVolumes) {
  config_->share.cache_root = std::chrono::seconds(1);
  config_->share.cache_read_only = std::chrono::seconds(2);
  config_->share.cache_volume = std::chrono::seconds(3);
  Boot({});
  BundleOptions options;
  options.args = {"sh", "-c", "! touch /x 2>/dev/null && ! touch /tmp/x 2>/dev/null"};
  options.read_only_root = true;
  options.mounts = R"(,{"destination":"/tmp","type":"bind","source":")" + dir_ +
                   R"(/root/etc","options":["bind","ro"]})";
  auto io = sandbox_->CreateContainer(ContainerOf("c", MakeBundle("c", options), false, false));
  ASSERT_TRUE(io.has_value()) << io.error().message();
  {
    const std::lock_guard lock(exports_->mu);
    EXPECT_EQ(exports_->attached.at("c0-root").cache, std::chrono::seconds(2));
    EXPECT_FALSE(exports_->attached.at("c0-root").read_only);
    // The container may not write there, the host may at any time.
    EXPECT_EQ(exports_->attached.at("c0-v0").cache, std::chrono::seconds(3));
    EXPECT_TRUE(exports_->attached.at("c0-v0").read_only);
  }
  ASSERT_TRUE(sandbox_->StartProcess("c", "").has_value());
  EXPECT_EQ(sandbox_->Wait("c", "")->status, 0U);
  EXPECT_TRUE(sandbox_->DeleteProcess("c", "").has_value());
  Sleeper("d");
  const std::lock_guard lock(exports_->mu);
  EXPECT_EQ(exports_->attached.at("c1-root").cache, std::chrono::seconds(1));
}

TEST_F(LifecycleTest, DeleteAfterABusyExportDetachesIt) {
  Boot({});
  std::filesystem::create_directory(dir_ + "/volume");
  BundleOptions options;
  options.mounts = R"(,{"destination":"/tmp","type":"bind","source":")" + dir_ +
                   R"(/volume","options":["bind"]})";
  ASSERT_TRUE(sandbox_->CreateContainer(ContainerOf("c", MakeBundle("c", options), false, false))
                  .has_value());
  ASSERT_TRUE(sandbox_->StartProcess("c", "").has_value());
  EXPECT_EQ(sandbox_->Wait("c", "")->status, 0U);
  const auto set_busy = [this](std::set<std::string> names) {
    const std::lock_guard lock(exports_->mu);
    exports_->busy = std::move(names);
  };
  set_busy({"c0-root"});
  for (int attempt = 0; attempt < 2; ++attempt) {
    EXPECT_EQ(CodeOf(sandbox_->DeleteProcess("c", "")), Code::kUnavailable);
    const std::lock_guard lock(exports_->mu);
    ASSERT_EQ(exports_->attached.size(), 1U);
    EXPECT_EQ(exports_->attached.begin()->first, "c0-root");
  }
  set_busy({});
  EXPECT_TRUE(sandbox_->DeleteProcess("c", "").has_value());
  const std::lock_guard lock(exports_->mu);
  EXPECT_TRUE(exports_->attached.empty());
}

// As a process that was waited for; containerd's own tests look for it (TestDaemonRestartWithRunningShim).
TEST_F(LifecycleTest, PidIsNobodysWhenTheExitIsTold) {
  Boot({});
  for (const char* id : {"a", "b"}) {
    BundleOptions options;
    options.args = {"sh", "-c", "exit 3"};
    ASSERT_TRUE(sandbox_->CreateContainer(ContainerOf(id, MakeBundle(id, options), false, false))
                    .has_value());
    const pid_t pid = sandbox_->State(id, "")->pid;
    EXPECT_EQ(kill(pid, 0), 0);
    ASSERT_TRUE(sandbox_->StartProcess(id, "").has_value());
    EXPECT_EQ(sandbox_->Wait(id, "")->status, 3U);
    EXPECT_EQ(kill(pid, 0), -1);
    EXPECT_EQ(errno, ESRCH);
    EXPECT_EQ(sandbox_->State(id, "")->pid, pid);
    EXPECT_EQ(sandbox_->DeleteProcess(id, "")->status, 3U);
  }
}

TEST_F(LifecycleTest, AnchorStandsForTheContainer) {
  Boot({});
  Sleeper("c");
  const pid_t pid = sandbox_->State("c", "")->pid;
  ASSERT_GT(pid, 1);
  const std::string proc = "/proc/" + std::to_string(pid);
  EXPECT_TRUE(std::filesystem::exists(proc + "/root/bin/busybox"));
  EXPECT_THAT(*ReadFile(proc + "/cgroup"),
              HasSubstr("wyvern-host-" + std::to_string(getpid()) + "/c"));
  // Its death by others is the container's.
  ASSERT_EQ(kill(pid, SIGKILL), 0);
  EXPECT_EQ(sandbox_->Wait("c", "")->status, 137U);
  EXPECT_TRUE(sandbox_->DeleteProcess("c", "").has_value());
  EXPECT_EQ(Run("d", {}).status, 0U);  // the sandbox lives on
}

// As runc does: what asks for a new network has one, what names the pod's shares it.
TEST_F(LifecycleTest, ContainersShareTheSandboxsNetworkOrHaveAnEmptyOne) {
  BundleOptions show;
  show.args = {"sh", "-c", "busybox readlink /proc/self/ns/net; cat /proc/net/dev"};
  Boot(show);
  const Ran first = Run("box", show);
  const Ran other = Run("other", show);
  const std::string name = first.out.substr(0, first.out.find('\n'));
  EXPECT_THAT(other.out, testing::Not(HasSubstr(name)));
  EXPECT_THAT(other.out, HasSubstr("lo:"));
  EXPECT_EQ(std::ranges::count(other.out, ':'), 2);  // "net:[…]" and "lo:"

  ASSERT_TRUE(
      sandbox_->CreateContainer(ContainerOf("c", MakeBundle("box", {}), false, false)).has_value());
  BundleOptions joins = show;
  const auto network = [&](const std::string& path) {
    return R"(,{"type":"network","path":")" + path + R"("})";
  };
  const std::string anchors = "/proc/" + std::to_string(sandbox_->State("c", "")->pid) + "/ns/net";
  joins.network = network(anchors);
  EXPECT_THAT(Run("joins", joins).out, HasSubstr(name));
  ASSERT_TRUE(sandbox_->DeleteProcess("c", "").has_value());

  const auto foreign = MakeNetworkNamespace();
  ASSERT_TRUE(foreign.has_value()) << foreign.error().message();
  const std::string path = "/proc/self/fd/" + std::to_string(foreign->get());
  joins.network = network(path);
  const auto refused =
      sandbox_->CreateContainer(ContainerOf("d", MakeBundle("d", joins), false, false));
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code(), Code::kInvalidArgument);
  EXPECT_THAT(refused.error().message(),
              HasSubstr(path + " is not the sandbox's network namespace"));
}

TEST_F(LifecycleTest, HostHooksSeeTheContainer) {
  Boot({});
  BundleOptions options;
  const std::string log = dir_ + "/hooks";
  const auto hook = [&](const std::string& name) {
    return R"([{"path":"/bin/busybox","args":["busybox","sh","-c","(echo )" + name +
           R"(; cat; echo) >> )" + log + R"("]}])";
  };
  options.args = {"cat", "/made"};
  options.hooks = R"({"prestart":)" + hook("pre") + R"(,"createRuntime":)" + hook("rt") +
                  R"(,"createContainer":)" + hook("cc") + R"(,"poststart":)" + hook("post") +
                  R"(,"poststop":)" + hook("stop") + "}";
  ASSERT_TRUE(WriteFile(dir_ + "/root/made", "by a hook").has_value());
  EXPECT_EQ(Run("h", options).out, "by a hook");
  const std::string text = ReadFile(log).value_or("");
  EXPECT_THAT(text, testing::MatchesRegex("pre\n.*rt\n.*cc\n.*post\n.*stop\n.*\n"));
  EXPECT_THAT(
      text, testing::AllOf(HasSubstr(R"("id":"h")"), HasSubstr(R"("status":"creating")"),
                           HasSubstr(R"("status":"running")"), HasSubstr(R"("status":"stopped")")));
}

TEST_F(LifecycleTest, HooksOfTheGuestRunInTheGuestForEveryContainer) {
  const std::string log = dir_ + "/said";
  for (const char* kind : {"prestart", "poststart", "poststop"}) {
    const std::string path = dir_ + "/guest-hooks/" + kind;
    std::filesystem::create_directories(path);
    ASSERT_TRUE(WriteFile(path + "/10-say",
                          std::string("#!/bin/sh\necho ") + kind + " $(cat) >> " + log + "\n"));
    std::filesystem::permissions(path + "/10-say", std::filesystem::perms(0755));
  }
  config_->guest.hooks = dir_ + "/guest-hooks";
  Boot({});
  for (const char* id : {"a", "b"}) {
    BundleOptions options;
    options.args = {"echo", "ran"};
    EXPECT_EQ(Run(id, options).out, "ran\n");
    const std::string text = ReadFile(log).value_or("");
    EXPECT_THAT(text, testing::MatchesRegex("prestart .*\npoststart .*\npoststop .*\n"));
    EXPECT_THAT(text, testing::ContainsRegex(std::string("\"id\": *\"") + id));
    std::filesystem::remove(log);
  }
  ASSERT_TRUE(WriteFile(dir_ + "/guest-hooks/prestart/20-fail", "#!/bin/sh\nexit 3\n"));
  std::filesystem::permissions(dir_ + "/guest-hooks/prestart/20-fail",
                               std::filesystem::perms(0755));
  EXPECT_EQ(Run("c", {}).status, 0U) << "hooks are those that were there when the sandbox began";
}

TEST_F(LifecycleTest, HookOfTheGuestThatFailsIsTheContainersFailure) {
  const std::string path = dir_ + "/guest-hooks/prestart";
  std::filesystem::create_directories(path);
  ASSERT_TRUE(WriteFile(path + "/fail", "#!/bin/sh\nexit 3\n"));
  std::filesystem::permissions(path + "/fail", std::filesystem::perms(0755));
  config_->guest.hooks = dir_ + "/guest-hooks";
  Boot({});
  const auto io = sandbox_->CreateContainer(ContainerOf("a", MakeBundle("a", {}), false, false));
  ASSERT_FALSE(io.has_value());
  EXPECT_THAT(io.error().message(), HasSubstr("hook"));
}

TEST_F(LifecycleTest, DirectoryOfGuestHooksThatIsNotThereIsNamed) {
  config_->guest.hooks = dir_ + "/none";
  const auto started = StartSandboxOf(MakeBundle("box", {}));
  ASSERT_FALSE(started.has_value());
  EXPECT_THAT(started.error().message(), HasSubstr("the guest has no directory " + dir_ + "/none"));
}

// One that fails: an error at Create, and what the others made is undone by the poststop hooks.
TEST_F(LifecycleTest, HostHookThatFailsEndsTheContainer) {
  Boot({});
  const std::string log = dir_ + "/hooks";
  const std::string stop = R"("poststop":[{"path":"/bin/busybox","args":["busybox","sh","-c",")"
                           "echo stop >> " +
                           log + R"("]}])";
  const std::string fails =
      R"([{"path":"/bin/busybox","args":["busybox","sh","-c","echo no way >&2; exit 4"]}],)";
  BundleOptions options;
  for (const std::string kind : {"prestart", "createRuntime", "createContainer"}) {
    options.hooks = "{\"" + kind + "\":" + fails + stop + "}";
    const auto io =
        sandbox_->CreateContainer(ContainerOf("i", MakeBundle("i", options), false, false));
    ASSERT_FALSE(io.has_value());
    EXPECT_THAT(io.error().message(),
                testing::AllOf(HasSubstr(kind + " hook"), HasSubstr("no way")));
    EXPECT_EQ(ReadFile(log).value_or(""), "stop\n");
    std::filesystem::remove(log);
  }
  options.args = {"no-such-program"};
  options.hooks = "{" + stop + "}";
  EXPECT_FALSE(sandbox_->CreateContainer(ContainerOf("i", MakeBundle("i", options), false, false))
                   .has_value());
  EXPECT_EQ(ReadFile(log).value_or(""), "stop\n");
  std::filesystem::remove(log);
  options.args = {"sleep", "1000"};
  options.hooks = "{\"poststart\":" + fails + stop + "}";
  ASSERT_TRUE(sandbox_->CreateContainer(ContainerOf("i", MakeBundle("i", options), false, false))
                  .has_value());
  const auto started = sandbox_->StartProcess("i", "");
  ASSERT_FALSE(started.has_value());
  EXPECT_THAT(started.error().message(), HasSubstr("no way"));
  EXPECT_EQ(sandbox_->Wait("i", "")->status, 137U);
  EXPECT_TRUE(sandbox_->DeleteProcess("i", "").has_value());
  EXPECT_EQ(ReadFile(log).value_or(""), "stop\n");
  EXPECT_EQ(Run("i", {}).status, 0U);  // nothing of it is left in the guest either
}

TEST_F(LifecycleTest, ShutdownRunsPoststopHooksOfWhatIsLeft) {
  Boot({});
  const std::string log = dir_ + "/hooks";
  BundleOptions options;
  options.args = {"sleep", "1000"};
  options.hooks = R"({"poststop":[{"path":"/bin/busybox","args":["busybox","sh","-c","cat >> )" +
                  log + R"("]}]})";
  ASSERT_TRUE(sandbox_->CreateContainer(ContainerOf("i", MakeBundle("i", options), false, false))
                  .has_value());
  ASSERT_TRUE(sandbox_->Shutdown().has_value());
  EXPECT_THAT(ReadFile(log).value_or(""), HasSubstr(R"("id":"i")"));
}

TEST_F(LifecycleTest, ShutdownDoesNotWaitForAHook) {
  Boot({});
  BundleOptions options;
  options.hooks =
      R"({"createRuntime":[{"path":"/bin/busybox","args":["busybox","sh","-c","busybox sleep 100 & echo $! > )" +
      dir_ + R"(/hook; wait"],"env":["PATH=/bin"]}]})";
  const std::string bundle = MakeBundle("h", options);
  auto created = std::async(std::launch::async, [&] {
    return CodeOf(sandbox_->CreateContainer(ContainerOf("h", bundle, false, false)));
  });
  for (int i = 0; i < 2000 && !std::filesystem::exists(dir_ + "/hook"); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_TRUE(sandbox_->Shutdown().has_value());
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));
  EXPECT_NE(created.get(), Code::kOk);
  EXPECT_EQ(LeftBehind(), "");
  const pid_t hook = std::stoi(ReadFile(dir_ + "/hook").value_or("0"));
  ASSERT_GT(hook, 1);
  for (int i = 0; i < 200 && ProcessStartTime(hook).has_value(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_FALSE(ProcessStartTime(hook).has_value());
}

TEST_F(LifecycleTest, ShutdownUndoesACreateThatCouldNotBeUndone) {
  Boot({});
  BundleOptions options;
  const std::string cgroup = "/sys/fs/cgroup/wyvern-host-" + std::to_string(getpid()) + "/u";
  options.hooks = R"({"prestart":[{"path":"/bin/busybox","args":["busybox","sh","-c","mkdir )" +
                  cgroup + R"(/busy; exit 1"]}]})";
  const auto io =
      sandbox_->CreateContainer(ContainerOf("u", MakeBundle("u", options), false, false));
  ASSERT_FALSE(io.has_value());
  EXPECT_EQ(sandbox_->ContainerCount(), 0U);
  ASSERT_TRUE(std::filesystem::exists(cgroup));  // busy: it could not be removed
  // It is not forgotten, neither while it is busy nor after.
  EXPECT_FALSE(sandbox_->Shutdown().has_value());
  const auto record = LoadState(StateDirectory(state_dir_, "default", "box"));
  ASSERT_TRUE(record.has_value());
  EXPECT_TRUE(record->containers.contains("u"));
  std::filesystem::remove(cgroup + "/busy");
  EXPECT_TRUE(sandbox_->Shutdown().has_value());
  EXPECT_EQ(LeftBehind(), "");
}

TEST_F(LifecycleTest, StatsHaveFigures) {
  Boot({});
  Sleeper("c");
  auto stats = sandbox_->Stats("c");
  ASSERT_TRUE(stats.has_value()) << stats.error().message();
  EXPECT_EQ(CodeOf(sandbox_->Stats("no")), Code::kNotFound);
  EXPECT_FALSE(sandbox_->KernelRelease().empty());
  EXPECT_GE(sandbox_->Timeline().size(), 5U);
  EXPECT_TRUE(sandbox_->Signal("c", "", SIGKILL, true).has_value());
  EXPECT_EQ(sandbox_->Wait("c", "")->status, 137U);
  EXPECT_TRUE(sandbox_->DeleteProcess("c", "").has_value());
}

TEST_F(LifecycleTest, ShutdownWithRunningContainersLeavesNothing) {
  Boot({});
  Sleeper("a");
  Sleeper("b");
  auto waiting = std::async(std::launch::async, [&] { return sandbox_->Wait("a", "")->status; });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_TRUE(sandbox_->Shutdown().has_value());
  EXPECT_EQ(waiting.get(), 137U);
  EXPECT_TRUE(sandbox_->Shutdown().has_value());
  EXPECT_EQ(LeftBehind(), "");
}

TEST_F(LifecycleTest, MachineCountsAsItsContainersWhenTheHostIsShortOfMemory) {
  const auto scores = [this] {
    std::vector<std::string> out;
    const auto record = LoadState(StateDirectory(state_dir_, "default", "box"));
    for (const ProcessRecord& process : record->processes) {
      out.push_back(
          process.role + " " +
          ReadFile("/proc/" + std::to_string(process.pid) + "/oom_score_adj").value_or("gone\n"));
    }
    return out;
  };
  const auto both = [](const std::string& score) {
    return testing::UnorderedElementsAre("vmm " + score + "\n", "fs " + score + "\n");
  };
  BundleOptions pause;
  pause.args = {"sleep", "1000"};
  pause.process = R"(,"oomScoreAdj":100)";
  pause.annotations = R"({"io.kubernetes.cri.container-type":"sandbox"})";
  const std::string before = *ReadFile("/proc/self/oom_score_adj");
  ASSERT_TRUE(WriteFile("/proc/self/oom_score_adj", "50").has_value());
  Boot(pause);
  ASSERT_TRUE(WriteFile("/proc/self/oom_score_adj", before).has_value());
  EXPECT_THAT(scores(), both("0"));
  const auto create = [this](const std::string& id, const BundleOptions& options) {
    const auto io =
        sandbox_->CreateContainer(ContainerOf(id, MakeBundle(id, options), false, false));
    ASSERT_TRUE(io.has_value()) << io.error().message();
  };
  create("box", pause);
  EXPECT_THAT(scores(), both("0"));
  BundleOptions options;
  options.process = R"(,"oomScoreAdj":900)";
  create("a", options);
  EXPECT_THAT(scores(), both("900"));
  options.process = R"(,"oomScoreAdj":300)";
  create("b", options);
  EXPECT_THAT(scores(), both("300"));
  EXPECT_TRUE(sandbox_->DeleteProcess("b", "").has_value());
  EXPECT_THAT(scores(), both("900"));
}

TEST_F(LifecycleTest, DeathOfTheMachineEndsEverythingOnce) {
  Boot({});
  Sleeper("c");
  std::promise<std::string> died;
  sandbox_->OnDeath([&](const std::string& reason) { died.set_value(reason); });
  auto waiting = std::async(std::launch::async, [&] { return sandbox_->Wait("c", "")->status; });
  auto record = LoadState(StateDirectory(state_dir_, "default", "box"));
  ASSERT_TRUE(record.has_value());
  for (const ProcessRecord& process : record->processes) {
    if (process.role == "fs") {
      kill(process.pid, SIGKILL);
    }
  }
  EXPECT_EQ(waiting.get(), 137U);
  EXPECT_THAT(died.get_future().get(), HasSubstr("file server died"));
  EXPECT_EQ(CodeOf(sandbox_->Signal("c", "", SIGKILL, false)), Code::kNotFound);
  EXPECT_EQ(CodeOf(sandbox_->UpdateContainer("c", "{}")), Code::kUnavailable);
  EXPECT_EQ(sandbox_->State("c", "")->exit.value_or(ExitInfo{}).status, 137U);
  EXPECT_EQ(sandbox_->DeleteProcess("c", "")->status, 137U);
}

TEST_F(LifecycleTest, StartThatIsCancelledEndsAtOnceAndLeavesNothing) {
  config_->timeouts.boot = std::chrono::seconds(60);
  Backend backend;
  backend.make_machine = MakeHollowMachine;  // its agent never answers
  std::stop_source stop;
  SandboxOptions options = OptionsOf(MakeBundle("box", {}), "box");
  options.cancel = stop.get_token();
  const auto begin = std::chrono::steady_clock::now();
  std::thread impatient([&stop] {
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    stop.request_stop();
  });
  const auto started = StartSandbox(std::move(options), backend);
  impatient.join();
  ASSERT_FALSE(started.has_value());
  EXPECT_EQ(started.error().code(), Code::kUnavailable);
  EXPECT_THAT(started.error().message(), HasSubstr("cancelled"));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(10));
  EXPECT_EQ(LeftBehind(), "");
}

TEST_F(LifecycleTest, SecondSandboxOfThatIdIsRefused) {
  Boot({});
  auto second = StartSandboxOf(MakeBundle("box", {}));
  EXPECT_EQ(CodeOf(second), Code::kAlreadyExists);
}

TEST_F(LifecycleTest, ManyContainersAtOnce) {
  Boot({});
  std::vector<std::future<uint32_t>> runs;
  runs.reserve(8);
  for (int i = 0; i < 8; ++i) {
    runs.push_back(std::async(std::launch::async, [this, i] {
      BundleOptions options;
      options.args = {"sh", "-c", "exit " + std::to_string(i)};
      return Run("m" + std::to_string(i), options).status;
    }));
  }
  for (uint32_t i = 0; i < 8; ++i) {
    EXPECT_EQ(runs[i].get(), i);
  }
}

}  // namespace
}  // namespace wyvern::runtime
