// Volumes of kubelet's that are in the guest's memory, with the real agent and real mounts; and with an agent that refuses or hangs.
#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <csignal>
#include <filesystem>
#include <thread>

#include "sandbox/testing/fake_agent.h"
#include "sandbox/testing/sandbox_fixture.h"
#include "storage/rootfs.h"
#include "volume/testing/kubelet_volume.h"

namespace wyvern::runtime {
namespace {

namespace fs = std::filesystem;
using testing::Contains;
using testing::HasSubstr;
using testing::Not;

class VolumesTest : public SandboxFixture {
 protected:
  // What kubelet has mounted is the test's own.
  void TearDown() override {
    if (!dir_.empty()) {
      static_cast<void>(UnmountTree(dir_ + "/pods"));
    }
    SandboxFixture::TearDown();
  }

  std::string PodPath(const std::string& name) const { return dir_ + "/pods/1/" + name; }

  std::string EmptyDir(const std::string& name, const char* options = "size=1m,mode=0777") const {
    std::string path = PodPath("volumes/kubernetes.io~empty-dir/" + name);
    fs::create_directories(path);
    if (options != nullptr) {
      EXPECT_EQ(mount("tmpfs", path.c_str(), "tmpfs", 0, options), 0);
    }
    return path;
  }

  static std::string Bind(const std::string& source, const std::string& destination,
                          const std::string& more = "") {
    return fmt::format(
        R"(,{{"type":"bind","source":"{}","destination":"{}","options":["rbind"{}]}})", source,
        destination, more);
  }

  static BundleOptions With(const std::string& mounts, std::vector<std::string> args) {
    BundleOptions options;
    options.mounts = mounts;
    options.args = std::move(args);
    return options;
  }

  // A container that runs until it is killed.
  void StartSleeper(const std::string& id, const std::string& mounts) {
    auto io = sandbox_->CreateContainer(
        ContainerOf(id, MakeBundle(id, With(mounts, {"sleep", "1000"})), false, false));
    ASSERT_TRUE(io.has_value()) << io.error().message();
    ASSERT_TRUE(sandbox_->StartProcess(id, "").has_value());
  }

  void End(const std::string& id) {
    EXPECT_TRUE(sandbox_->Signal(id, "", SIGKILL, false).has_value());
    EXPECT_TRUE(sandbox_->Wait(id, "").has_value());
    const auto deleted = sandbox_->DeleteProcess(id, "");
    EXPECT_TRUE(deleted.has_value()) << deleted.error().message();
  }

  std::string Says(const std::string& id, const std::string& script) {
    const std::string exec = "x" + std::to_string(++execs_);
    IoWanted io;
    io.stdout_stream = true;
    auto added = sandbox_->AddExec(
        id, exec, R"({"args":["sh","-c",")" + script + R"("],"cwd":"/","env":["PATH=/bin"]})", io);
    EXPECT_TRUE(added.has_value()) << added.error().message();
    EXPECT_TRUE(sandbox_->StartProcess(id, exec).has_value());
    std::string out = Drain(added->stdout_stream);
    EXPECT_TRUE(sandbox_->Wait(id, exec).has_value());
    EXPECT_TRUE(sandbox_->DeleteProcess(id, exec).has_value());
    return out;
  }

  bool SaysSoon(const std::string& id, const std::string& script, const std::string& expected) {
    for (int i = 0; i < 50; ++i) {
      if (Says(id, script) == expected) {
        return true;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
    return false;
  }

  static std::vector<std::string> InGuest() {
    std::vector<std::string> out;
    std::error_code error;
    for (fs::directory_iterator it("/run/wyvern/volumes", error), end; !error && it != end;
         it.increment(error)) {
      out.push_back(it->path().filename());
    }
    return out;
  }

  int execs_ = 0;
};

TEST_F(VolumesTest, AMemoryEmptyDirIsSharedHasItsSizeAndOutlivesItsContainers) {
  const std::string volume = EmptyDir("cache");
  ASSERT_TRUE(WriteFile(volume + "/of-the-host", "1").has_value());
  Boot({});
  StartSleeper("a", Bind(volume, "/cache"));
  EXPECT_TRUE(exports_->attached.contains("c0-root"));
  EXPECT_FALSE(exports_->attached.contains("c0-v0"));
  EXPECT_EQ(Says("a", "grep -c '/cache tmpfs' /proc/mounts; echo x > /cache/f; ls /cache"),
            "1\nf\n");
  EXPECT_THAT(Says("a", "busybox df -k /cache"), HasSubstr(" 1024 "));
  const auto other = Run("b", With(Bind(volume, "/other", R"(,"ro")"),
                                   {"sh", "-c", "cat /other/f; touch /other/g || echo refused"}));
  EXPECT_EQ(other.out, "x\nrefused\n");
  End("a");
  EXPECT_EQ(Run("a", With(Bind(volume, "/cache"), {"cat", "/cache/f"})).out, "x\n");
  EXPECT_FALSE(fs::exists(volume + "/f"));
}

TEST_F(VolumesTest, ASubPathOfAMemoryEmptyDirIsWithinIt) {
  const std::string volume = EmptyDir("cache");
  const std::string sub = PodPath("volume-subpaths/cache/b/0");
  fs::create_directories(sub);
  fs::create_directories(volume + "/d/e");
  ASSERT_EQ(mount((volume + "/d/e").c_str(), sub.c_str(), nullptr, MS_BIND, nullptr), 0);
  Boot({});
  StartSleeper("a", Bind(volume, "/cache"));
  EXPECT_EQ(Run("b", With(Bind(sub, "/sub"), {"sh", "-c", "echo y > /sub/f"})).status, 0U);
  EXPECT_EQ(Says("a", "cat /cache/d/e/f"), "y\n");
  EXPECT_THAT(InGuest(), Not(Contains(HasSubstr("p"))));
  // A container makes it a link to what is none of its business.
  Says("a", "busybox rm -r /cache/d; busybox ln -s / /cache/d");
  auto io = sandbox_->CreateContainer(
      ContainerOf("b", MakeBundle("b", With(Bind(sub, "/sub"), {"ls", "/sub"})), false, false));
  ASSERT_FALSE(io.has_value());
  EXPECT_THAT(io.error().message(), HasSubstr("in the volume"));
}

TEST_F(VolumesTest, AnEmptyDirOnDiskIsAShare) {
  const std::string volume = EmptyDir("disk", nullptr);
  Boot({});
  EXPECT_EQ(Run("a", With(Bind(volume, "/disk"), {"sh", "-c", "echo x > /disk/f"})).status, 0U);
  EXPECT_EQ(ReadFile(volume + "/f").value_or(""), "x\n");
}

TEST_F(VolumesTest, HugePagesThatTheGuestHasNotAreRefusedWithTheReason) {
  const std::string volume = EmptyDir("pages", nullptr);
  if (mount("hugetlbfs", volume.c_str(), "hugetlbfs", 0, "pagesize=2M") != 0) {
    GTEST_SKIP() << "no hugetlbfs of 2 MiB here";
  }
  if (ReadFile("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", 64).value_or("") !=
      "0\n") {
    GTEST_SKIP() << "this machine has huge pages";
  }
  Boot({});
  auto io = sandbox_->CreateContainer(
      ContainerOf("a", MakeBundle("a", With(Bind(volume, "/pages"), {"true"})), false, false));
  ASSERT_FALSE(io.has_value());
  EXPECT_THAT(io.error().message(), HasSubstr("mounts[3].source"));
  EXPECT_THAT(io.error().message(), HasSubstr("hugepagesz=2048K"));
}

TEST_F(VolumesTest, AConfigMapIsInTheGuestAndFollowsTheHost) {
  KubeletVolume volume(PodPath("volumes/kubernetes.io~configmap/c"));
  volume.Write({{"key", "one"}, {"d/sub", "1"}}, 0640);
  Boot({});
  StartSleeper("a", Bind(volume.path(), "/etc/config", R"(,"ro")"));
  EXPECT_FALSE(exports_->attached.contains("c0-v0"));
  EXPECT_EQ(Says("a", "cat /etc/config/key /etc/config/d/sub"), "one1");
  EXPECT_THAT(Says("a", "ls -lL /etc/config/key"), HasSubstr("-rw-r-----"));
  volume.Write({{"key", "two"}, {"more", "2"}});
  EXPECT_TRUE(SaysSoon("a", "cat /etc/config/key", "two"));
  EXPECT_EQ(Says("a", "ls /etc/config"), "key\nmore\n");
  // Somebody else of the pod has the same one, and leaves.
  EXPECT_EQ(Run("b", With(Bind(volume.path(), "/c", R"(,"ro")"), {"cat", "/c/more"})).out, "2");
  volume.Write({{"key", "three"}});
  EXPECT_TRUE(SaysSoon("a", "cat /etc/config/key", "three"));
  End("a");
  EXPECT_THAT(InGuest(), Not(Contains(HasSubstr("f"))));
}

TEST_F(VolumesTest, WhatAContainerDoesToASecretStaysInTheGuest) {
  KubeletVolume volume(PodPath("volumes/kubernetes.io~secret/s"));
  const std::string version = volume.Write({{"key", "one"}});
  Boot({});
  StartSleeper("a", Bind(volume.path(), "/s", R"(,"rw")"));
  EXPECT_EQ(Says("a", "echo x > /s/key || echo refused"), "refused\n") << "it is read-only";
  EXPECT_EQ(ReadFile(volume.path() + "/" + version + "/key").value_or(""), "one");
  End("a");
}

TEST_F(VolumesTest, WhatIsTooLargeOrNotKubeletsIsAShare) {
  KubeletVolume large(PodPath("volumes/kubernetes.io~configmap/large"));
  large.Write({{"key", std::string(kMaxHostFileBytes + 1, 'x')}});
  const std::string plain = PodPath("volumes/kubernetes.io~projected/plain");
  fs::create_directories(plain);
  ASSERT_TRUE(WriteFile(plain + "/f", "plain").has_value());
  Boot({});
  const auto ran =
      Run("a", With(Bind(large.path(), "/l", R"(,"ro")") + Bind(plain, "/p", R"(,"ro")"),
                    {"sh", "-c", "cat /l/key | wc -c; cat /p/f"}));
  EXPECT_EQ(ran.out, fmt::format("{}\nplain", kMaxHostFileBytes + 1));
  EXPECT_THAT(InGuest(), Not(Contains(HasSubstr("f"))));
  const auto missing = sandbox_->CreateContainer(ContainerOf(
      "m",
      MakeBundle("m", With(Bind(PodPath("volumes/kubernetes.io~secret/none"), "/n"), {"true"})),
      false, false));
  EXPECT_EQ(missing.error().code(), Code::kNotFound);
}

TEST_F(VolumesTest, OneThatGrowsTooLargeKeepsItsLastVersion) {
  KubeletVolume volume(PodPath("volumes/kubernetes.io~configmap/c"));
  volume.Write({{"key", "one"}});
  Boot({});
  StartSleeper("a", Bind(volume.path(), "/c", R"(,"ro")"));
  volume.Write({{"key", std::string(kMaxHostFileBytes + 1, 'x')}});
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  EXPECT_EQ(Says("a", "cat /c/key"), "one");
  volume.Write({{"key", "small again"}});
  EXPECT_TRUE(SaysSoon("a", "cat /c/key", "small again"));
  End("a");
}

TEST_F(VolumesTest, AShareIsOneForAllContainersThatMountIt) {
  const std::string volume = EmptyDir("disk", nullptr);
  Boot({});
  StartSleeper("a", Bind(volume, "/a"));
  StartSleeper("b", Bind(volume, "/b") + Bind(volume, "/again"));
  EXPECT_TRUE(exports_->attached.contains("c0-v0"));
  EXPECT_FALSE(exports_->attached.contains("c1-v0"));
  EXPECT_EQ(Says("a", "busybox mkfifo /a/fifo; (busybox timeout 9 cat /a/fifo > /a/out &)"), "");
  EXPECT_EQ(Says("b", "echo through > /b/fifo; busybox usleep 100000; cat /again/out"),
            "through\n");
  End("a");
  EXPECT_TRUE(exports_->attached.contains("c0-v0")) << "b has it";
  EXPECT_EQ(Says("b", "cat /b/out"), "through\n");
  End("b");
  EXPECT_FALSE(exports_->attached.contains("c0-v0"));
  EXPECT_EQ(Run("c", With(Bind(volume, "/c"), {"cat", "/c/out"})).out, "through\n");
}

TEST_F(VolumesTest, DevicesOfTheHostAreRefusedWithTheReason) {
  Boot({});
  ASSERT_EQ(mknod((dir_ + "/kvm").c_str(), S_IFCHR | 0600, makedev(10, 232)), 0);
  ASSERT_EQ(mknod((dir_ + "/disk").c_str(), S_IFBLK | 0600, makedev(254, 0)), 0);
  const auto why_not = [&](const std::string& source) -> std::string {
    auto io = sandbox_->CreateContainer(
        ContainerOf("a", MakeBundle("a", With(Bind(source, "/d"), {"true"})), false, false));
    return io.has_value() ? "" : io.error().message();
  };
  EXPECT_THAT(why_not(dir_ + "/kvm"), HasSubstr("character devices of the host (10:232)"));
  EXPECT_THAT(why_not(dir_ + "/disk"), HasSubstr("name it in linux.devices"));
  EXPECT_EQ(LeftBehind().find("export"), std::string::npos);
}

TEST_F(VolumesTest, AnAgentThatHangsOrRefusesEndsNothingButTheContainer) {
  KubeletVolume volume(PodPath("volumes/kubernetes.io~configmap/c"));
  volume.Write({{"key", "one"}});
  FakeAgent agent;
  Backend backend;
  backend.make_machine = [&](const MachineOptions&) {
    return MakeHollowMachineWithAgent(agent.Connector());
  };
  config_->timeouts.agent_call = std::chrono::milliseconds(500);
  auto sandbox = StartSandbox(OptionsOf(MakeBundle("box", {}), "box"), backend);
  ASSERT_TRUE(sandbox.has_value()) << sandbox.error().message();
  sandbox_ = std::move(*sandbox);
  const auto create = [&] {
    return sandbox_->CreateContainer(
        ContainerOf("a", MakeBundle("a", With(Bind(volume.path(), "/c"), {"true"})), false, false));
  };
  agent.Refuse("AddVolume", Code::kResourceExhausted);
  EXPECT_EQ(create().error().code(), Code::kResourceExhausted);
  agent.Hang("AddVolume");
  EXPECT_EQ(create().error().code(), Code::kDeadlineExceeded);
}

}  // namespace
}  // namespace wyvern::runtime
