// The process that serves a sandbox is killed after every single step; a fresh process must find and undo everything.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <thread>

#include "base/subprocess.h"
#include "cgroup/cgroup.h"
#include "sandbox/cleanup.h"
#include "sandbox/testing/sandbox_fixture.h"
#include "storage/block_source.h"
#include "storage/loop.h"
#include "storage/rootfs.h"
#include "systemd/testing/fake_systemd.h"

namespace wyvern::runtime {
namespace {

class CrashTest : public SandboxFixture {
 protected:
  // In a child: starts a sandbox and a container, dies at step number `fatal`. Returns how many steps it saw when it lived through all.
  void LiveUntil(int fatal, const std::string& bundle, const std::string& log,
                 const std::string& image = "") {
    int steps = 0;
    Backend backend;
    backend.make_machine = MakeNativeMachine;
    backend.step = [&](const std::string& step) {
      std::ofstream(log, std::ios::app) << step << "\n";
      if (steps++ == fatal) {
        kill(getpid(), SIGKILL);
      }
    };
    auto sandbox = StartSandbox(OptionsOf(bundle, "box"), backend);
    if (!sandbox.has_value()) {
      fprintf(stderr, "%s\n", sandbox.error().message().c_str());
      _exit(3);
    }
    ContainerOptions container = ContainerOf("box", bundle, false, false);
    container.rootfs = {{"overlay",
                         "overlay",
                         "",
                         {"lowerdir=" + dir_ + "/root", "upperdir=" + dir_ + "/upper",
                          "workdir=" + dir_ + "/work"}}};
    if (!image.empty()) {
      container.rootfs = {{"ext4", image, "", {"loop"}}};
    }
    const auto created = (*sandbox)->CreateContainer(container);
    if (!created.has_value()) {
      fprintf(stderr, "%s\n", created.error().message().c_str());
    }
    const bool ok = created.has_value() && (*sandbox)->StartProcess("box", "").has_value();
    std::ofstream(log, std::ios::app) << "end\n";
    kill(getpid(), ok ? SIGKILL : SIGABRT);
  }

  int DieAtEachStep(const std::string& cgroups_path);

  std::vector<ProcessRecord> RecordedProcesses() const {
    auto record = LoadState(StateDirectory(state_dir_, "default", "box"));
    if (!record.has_value()) {
      return {};
    }
    std::vector<ProcessRecord> out = record->processes;
    for (const auto& [id, container] : record->containers) {
      out.insert(out.end(), container.processes.begin(), container.processes.end());
    }
    return out;
  }
};

// Returns how often that was.
int CrashTest::DieAtEachStep(const std::string& cgroups_path) {
  for (const char* name : {"upper", "work"}) {
    std::filesystem::create_directory(dir_ + "/" + name);
  }
  BundleOptions options;
  options.args = {"sleep", "1000"};
  options.mounts =
      R"(,{"destination":"/v","type":"bind","source":")" + dir_ + R"(/upper","options":["rbind"]})";
  options.cgroups_path = cgroups_path;
  const std::string bundle = MakeBundle("box", options);
  const std::string log = dir_ + "/steps";
  bool lived = false;
  int tried = 0;
  for (int fatal = 0; !lived; ++fatal, ++tried) {
    std::filesystem::remove(log);
    const pid_t child = fork();
    if (child == 0) {
      LiveUntil(fatal, bundle, log);
    }
    int status = 0;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL) {
      ADD_FAILURE() << "at step " << fatal << ": " << status;
      return tried;
    }
    const std::string steps = *ReadFile(log);
    lived = steps.ends_with("end\n");
    const std::vector<ProcessRecord> processes = RecordedProcesses();
    const auto cleaned = CleanUpIn({state_dir_, config_->cgroup_root}, "default", "box", bundle);
    EXPECT_TRUE(cleaned.has_value()) << cleaned.error().message() << " after:\n" << steps;
    for (const ProcessRecord& process : processes) {
      EXPECT_FALSE(IsAlive(process)) << process.role << " after:\n" << steps;
    }
    // The native machine's stand-ins for what dies with a guest.
    for (const auto& entry : std::filesystem::directory_iterator("/run/wyvern/share")) {
      while (umount2(entry.path().c_str(), MNT_DETACH) == 0) {
      }
      std::filesystem::remove(entry.path());
    }
    EXPECT_EQ(LeftBehind(), "") << "after:\n" << steps;
    EXPECT_TRUE(
        CleanUpIn({state_dir_, config_->cgroup_root}, "default", "box", bundle).has_value());
  }
  return tried;
}

TEST_F(CrashTest, CleanUpAfterDeathAtEachStep) {
  EXPECT_GE(DieAtEachStep("/wyvern-host-" + std::to_string(getpid()) + "/box"), 10);
}

TEST_F(CrashTest, CleanUpOfScopesAfterDeathAtEachStep) {
  const std::string slice = "wyverntest" + std::to_string(getpid()) + ".slice";
  const std::string directory = config_->cgroup_root + "/" + slice;
  {
    const FakeSystemd fake(dir_, config_->cgroup_root);
    EXPECT_GE(DieAtEachStep(slice + ":t:box"), 10);
    EXPECT_TRUE(fake.units().empty());
  }
  EXPECT_EQ(rmdir(directory.c_str()), 0) << "something is in it";
}

TEST_F(CrashTest, CleanUpFreesDisksAfterDeathAtEachStep) {
  const std::string image = dir_ + "/root.ext4";
  const auto made = RunCommand(
      SpawnOptions{{"/sbin/mke2fs", "-q", "-F", "-t", "ext4", "-d", dir_ + "/root", image, "24M"},
                   {},
                   {},
                   {}},
      20000);
  if (!made.has_value() || made->status.AsShell() != 0 ||
      !LoopDevice::Attach(image, /*read_only=*/true).has_value()) {
    GTEST_SKIP() << "no mke2fs or no loop devices here";
  }
  BundleOptions options;
  options.args = {"sleep", "1000"};
  options.cgroups_path = "/wyvern-host-" + std::to_string(getpid()) + "/box";
  const std::string bundle = MakeBundle("box", options);
  const std::string log = dir_ + "/steps";
  bool lived = false;
  bool recorded = false;
  for (int fatal = 0; !lived; ++fatal) {
    std::filesystem::remove(log);
    const pid_t child = fork();
    if (child == 0) {
      LiveUntil(fatal, bundle, log, image);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    const std::string steps = *ReadFile(log);
    ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
        << "at step " << fatal << ": " << status << " after:\n"
        << steps;
    lived = steps.ends_with("end\n");
    if (steps.ends_with("disk\n")) {
      const auto record = LoadState(StateDirectory(state_dir_, "default", "box"));
      ASSERT_TRUE(record.has_value());
      EXPECT_EQ(record->containers.at("box").disks.at(0).source, image);
      recorded = true;
    }
    const auto cleaned = CleanUpIn({state_dir_, config_->cgroup_root}, "default", "box", bundle);
    EXPECT_TRUE(cleaned.has_value()) << cleaned.error().message() << " after:\n" << steps;
    // What dies with a guest.
    static_cast<void>(WriteFile("/sys/fs/cgroup/wyvern/box/cgroup.kill", "1"));
    for (int i = 0; i < 200 && rmdir("/sys/fs/cgroup/wyvern/box") != 0 && errno == EBUSY; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    std::error_code none;
    for (const auto& entry : std::filesystem::directory_iterator("/run/wyvern/disks", none)) {
      EXPECT_EQ(umount2(entry.path().c_str(), MNT_DETACH), 0);
      std::filesystem::remove(entry.path());
    }
    EXPECT_EQ(LeftBehind(), "") << "after:\n" << steps;
    const auto again = OpenBlockSource(image, /*read_only=*/false);
    EXPECT_TRUE(again.has_value()) << again.error().message() << " after:\n" << steps;
  }
  EXPECT_TRUE(recorded);
}

// As containerd has them when its state directory is below a symlink, /var/run for one.
TEST_F(CrashTest, CleanUpOfABundleBelowASymlink) {
  for (const char* name : {"upper", "work"}) {
    std::filesystem::create_directory(dir_ + "/" + name);
  }
  BundleOptions options;
  options.args = {"sleep", "1000"};
  options.cgroups_path = "/wyvern-host-" + std::to_string(getpid()) + "/box";
  MakeBundle("box", options);
  std::filesystem::create_symlink(dir_, dir_ + "/link");
  const std::string bundle = dir_ + "/link/bundle-box";
  const pid_t child = fork();
  if (child == 0) {
    LiveUntil(-1, bundle, dir_ + "/steps");
  }
  ASSERT_EQ(waitpid(child, nullptr, 0), child);
  EXPECT_TRUE((*ReadFile(dir_ + "/steps")).ends_with("end\n"));
  ASSERT_EQ(MountsBelow(dir_)->size(), 1U);
  const auto cleaned = CleanUpIn({state_dir_, config_->cgroup_root}, "default", "box", bundle);
  EXPECT_TRUE(cleaned.has_value()) << cleaned.error().message();
  for (const auto& entry : std::filesystem::directory_iterator("/run/wyvern/share")) {
    static_cast<void>(umount2(entry.path().c_str(), MNT_DETACH));
    std::filesystem::remove(entry.path());
  }
  EXPECT_EQ(LeftBehind(), "");
}

// nerdctl's network is undone by one: nobody else does it.
TEST_F(CrashTest, CleanUpRunsPoststopHooksOnceAndOnlyAfterCreateHooks) {
  for (const char* name : {"upper", "work"}) {
    std::filesystem::create_directory(dir_ + "/" + name);
  }
  const std::string told = dir_ + "/told";
  BundleOptions options;
  options.args = {"sleep", "1000"};
  options.annotations = R"({"a":"b"})";
  options.hooks = R"({"poststop":[{"path":"/bin/busybox","args":["busybox","sh","-c","cat >> )" +
                  told + R"("]}]})";
  options.cgroups_path = "/wyvern-host-" + std::to_string(getpid()) + "/box";
  const std::string bundle = MakeBundle("box", options);
  const std::string log = dir_ + "/steps";
  const auto die_and_clean = [&](int fatal) {
    std::filesystem::remove(log);
    const pid_t child = fork();
    if (child == 0) {
      LiveUntil(fatal, bundle, log);
    }
    EXPECT_EQ(waitpid(child, nullptr, 0), child);
    for (int i = 0; i < 2; ++i) {
      EXPECT_TRUE(
          CleanUpIn({state_dir_, config_->cgroup_root}, "default", "box", bundle).has_value());
    }
    for (const auto& entry : std::filesystem::directory_iterator("/run/wyvern/share")) {
      static_cast<void>(umount2(entry.path().c_str(), MNT_DETACH));
      std::filesystem::remove(entry.path());
    }
    EXPECT_EQ(LeftBehind(), "");
  };
  die_and_clean(5);
  EXPECT_FALSE(std::filesystem::exists(told)) << *ReadFile(log);
  die_and_clean(-1);
  const std::string text = ReadFile(told).value_or("");
  EXPECT_THAT(text, testing::AllOf(testing::HasSubstr(R"("id":"box")"),
                                   testing::HasSubstr(R"("annotations":{"a":"b"})"),
                                   testing::HasSubstr(R"("status":"stopped")")));
  EXPECT_EQ(text.find("ociVersion"), text.rfind("ociVersion"));
}

TEST_F(CrashTest, CleanUpOfNothingIsSuccess) {
  EXPECT_TRUE(CleanUpIn({state_dir_, config_->cgroup_root}, "default", "never", dir_ + "/absent")
                  .has_value());
}

// A sandbox of an earlier version, whose shim is gone.
TEST_F(CrashTest, Scenario35_CleanUpUndoesWhatEveryVersionHasWritten) {
  const std::string bundle = MakeBundle("box", {});
  const std::string directory = StateDirectory(state_dir_, "default", "box");
  const std::string cgroup = fmt::format("/wyvern-host-{}", getpid());
  for (const auto& entry : std::filesystem::directory_iterator(WYVERN_STATE_WRITTEN)) {
    SCOPED_TRACE(entry.path());
    std::filesystem::create_directories(directory);
    for (const char* name : {"wyvern/box", "box"}) {
      const auto place = ParseCgroupsPath(cgroup + "/" + name, "box");
      ASSERT_TRUE(place.has_value() &&
                  Cgroup::Make(config_->cgroup_root, *place, "box").has_value());
    }
    ASSERT_EQ(mount("tmpfs", (bundle + "/rootfs").c_str(), "tmpfs", 0, nullptr), 0);
    std::string text = *ReadFile(entry.path());
    const auto put = [&text](const std::string& what, const std::string& instead) {
      for (size_t at = text.find(what); at != std::string::npos; at = text.find(what)) {
        text.replace(at, what.size(), instead);
      }
    };
    std::vector<Subprocess> left;
    for (const char* number : {"01", "02", "03"}) {
      auto process = Subprocess::Spawn({{"/bin/busybox", "sleep", "1000"}, {}, {}, {}});
      ASSERT_TRUE(process.has_value()) << process.error().message();
      put(std::string("41942") + number, std::to_string(process->pid()));
      put(std::string("77") + number, std::to_string(*ProcessStartTime(process->pid())));
      left.push_back(std::move(*process));
    }
    put("/bundles/box", bundle);
    put("/cgroups", config_->cgroup_root + cgroup);
    ASSERT_TRUE(WriteFile(directory + "/state.json", text).has_value());
    const auto cleaned = CleanUpIn({state_dir_, config_->cgroup_root}, "default", "box", bundle);
    EXPECT_TRUE(cleaned.has_value()) << cleaned.error().message();
    for (const Subprocess& process : left) {
      EXPECT_FALSE(ProcessStartTime(process.pid()).has_value());
      EXPECT_EQ(process.Wait()->AsShell(), 128U + SIGKILL);
    }
    EXPECT_EQ(LeftBehind(), "");
  }
}

// Of a version that was taken back: nothing is undone by guess, and the one that can still finds all of it.
TEST_F(CrashTest, StateOfALaterFormatIsLeftAsItIs) {
  const std::string bundle = MakeBundle("box", {});
  const std::string file = StateDirectory(state_dir_, "default", "box") + "/state.json";
  std::filesystem::create_directories(StateDirectory(state_dir_, "default", "box"));
  ASSERT_TRUE(WriteFile(file, R"({"version":2})").has_value());
  ASSERT_EQ(mount("tmpfs", (bundle + "/rootfs").c_str(), "tmpfs", 0, nullptr), 0);
  const auto cleaned = CleanUpIn({state_dir_, config_->cgroup_root}, "default", "box", bundle);
  EXPECT_EQ(CodeOf(cleaned), Code::kFailedPrecondition);
  const auto started = StartSandboxOf(bundle);
  EXPECT_EQ(CodeOf(started), Code::kFailedPrecondition);
  EXPECT_EQ(*ReadFile(file), R"({"version":2})");
  EXPECT_EQ(MountsBelow(dir_)->size(), 1U);
}

TEST_F(CrashTest, DamagedStateIsRemovedAndTheBundleUnmounted) {
  const std::string bundle = MakeBundle("box", {});
  const std::string directory = StateDirectory(state_dir_, "default", "box");
  std::filesystem::create_directories(directory);
  ASSERT_TRUE(WriteFile(directory + "/state.json", "{\"version\":1,").has_value());
  ASSERT_EQ(mount("tmpfs", (bundle + "/rootfs").c_str(), "tmpfs", 0, nullptr), 0);
  EXPECT_TRUE(CleanUpIn({state_dir_, config_->cgroup_root}, "default", "box", bundle).has_value());
  EXPECT_EQ(LeftBehind(), "");
}

TEST_F(CrashTest, ContainerOfALivingSandboxIsLeftToIt) {
  Boot({});
  BundleOptions options;
  options.args = {"sleep", "1000"};
  ContainerOptions container = ContainerOf("other", MakeBundle("other", options), false, false);
  container.rootfs = {{"bind", dir_ + "/root", "", {"bind"}}};
  ASSERT_TRUE(sandbox_->CreateContainer(container).has_value());
  ASSERT_TRUE(sandbox_->StartProcess("other", "").has_value());
  EXPECT_TRUE(CleanUpIn({state_dir_, config_->cgroup_root}, "default", "other", container.bundle)
                  .has_value());
  EXPECT_EQ(sandbox_->State("other", "")->status, ProcessStatus::kRunning);
  EXPECT_EQ(MountsBelow(dir_)->size(), 1U);
}

TEST_F(CrashTest, StartAfterACrashCleansUpByItself) {
  BundleOptions options;
  options.args = {"sleep", "1000"};
  const std::string bundle = MakeBundle("box", options);
  const pid_t child = fork();
  if (child == 0) {
    LiveUntil(4, bundle, dir_ + "/steps");
  }
  ASSERT_EQ(waitpid(child, nullptr, 0), child);
  ASSERT_NE(LeftBehind(), "");
  Boot({});
  EXPECT_EQ(Run("box", {}).status, 0U);
}

}  // namespace
}  // namespace wyvern::runtime
