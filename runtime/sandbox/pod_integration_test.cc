// A pod as CRI makes one: a container that only stands for it, and others that come and go. Real agent, crun, namespaces, anchors.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <netinet/in.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <csignal>
#include <filesystem>
#include <future>

#include "base/testing/must.h"
#include "base/unix_socket.h"
#include "network/netns.h"
#include "sandbox/testing/sandbox_fixture.h"

namespace wyvern::runtime {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class SandboxPodTest : public SandboxFixture {
 protected:
  // The sandbox, and in it the container that stands for it.
  void BootPod(bool started = true) {
    BundleOptions pause;
    pause.args = {"/pause-is-never-run"};
    pause.annotations = R"({"io.kubernetes.cri.container-type":"sandbox"})";
    pause.mounts = files_;
    if (!shm_.empty()) {
      pause.mounts += ShmMount();
    }
    Boot(pause);
    ASSERT_NE(sandbox_, nullptr);
    auto made = sandbox_->CreateContainer(ContainerOf("box", dir_ + "/bundle-box", false, false));
    ASSERT_TRUE(made.has_value()) << made.error().message();
    if (started) {
      ASSERT_TRUE(sandbox_->StartProcess("box", "").has_value());
    }
    pause_ = sandbox_->State("box", "")->pid;
    ASSERT_GT(pause_, 0);
  }

  std::string ShmMount() const {
    return R"(,{"destination":"/dev/shm","type":"bind","source":")" + shm_ +
           R"(","options":["rbind","ro"]})";
  }

  // The namespaces that CRI gives a container of the pod; `pids`: whose pid namespace, 0: one of its own.
  BundleOptions Workload(const std::vector<std::string>& args, pid_t pids = 0) const {
    const auto path = [](const char* type, pid_t of) {
      return fmt::format(R"({{"type":"{0}","path":"/proc/{1}/ns/{0}"}},)", type, of);
    };
    BundleOptions options;
    options.args = args;
    options.namespaces = path("ipc", pause_) + path("uts", pause_) +
                         (pids > 0 ? path("pid", pids) : R"({"type":"pid"},)") +
                         R"({"type":"mount"})";
    options.network = fmt::format(R"(,{{"type":"network","path":"/proc/{}/ns/net"}})", pause_);
    options.annotations = R"({"io.kubernetes.cri.container-type":"container"})";
    if (!shm_.empty()) {
      options.mounts = ShmMount();
      options.mounts.replace(options.mounts.find("\"ro\""), 4, "\"rw\"");
    }
    return options;
  }

  pid_t Sleeper(const std::string& id, pid_t pids = 0) {
    const std::string bundle = MakeBundle(id, Workload({"sleep", "1000"}, pids));
    auto made = sandbox_->CreateContainer(ContainerOf(id, bundle, false, false));
    EXPECT_TRUE(made.has_value()) << made.error().message();
    EXPECT_TRUE(sandbox_->StartProcess(id, "").has_value());
    return sandbox_->State(id, "")->pid;
  }

  std::string shm_;    // on the host
  std::string files_;  // mounts of the pause
  pid_t pause_ = 0;
};

TEST_F(SandboxPodTest, LivesWithoutContainersAndOneComesAgain) {
  BootPod();
  EXPECT_THAT(exports_->attached, IsEmpty()) << "the pause's root is nobody's";
  EXPECT_EQ(sandbox_->State("box", "")->status, ProcessStatus::kRunning);
  for (int i = 0; i < 3; ++i) {
    const Ran ran = Run("web", Workload({"sh", "-c", "echo -n $$; exit 3"}));
    EXPECT_EQ(ran.status, 3U);
    EXPECT_EQ(ran.out, "1");
  }
  EXPECT_THAT(sandbox_->ContainerIds(), ElementsAre("box"));
  Sleeper("a");
  Sleeper("b");
  EXPECT_THAT(sandbox_->ContainerIds(), ElementsAre("a", "b", "box"));
  ASSERT_TRUE(sandbox_->Signal("a", "", SIGKILL, true).has_value());
  EXPECT_EQ(sandbox_->Wait("a", "")->status, 137U);
  EXPECT_TRUE(sandbox_->DeleteProcess("a", "").has_value());
  EXPECT_EQ(sandbox_->State("b", "")->status, ProcessStatus::kRunning);
}

TEST_F(SandboxPodTest, WhatStandsForItAnswersWithoutAProcess) {
  BootPod();
  const auto refused = sandbox_->AddExec("box", "x", R"({"cwd":"/","args":["true"]})", {});
  EXPECT_EQ(CodeOf(refused), Code::kFailedPrecondition);
  EXPECT_THAT(refused.error().message(), HasSubstr("stands for its pod"));
  const auto stats = sandbox_->Stats("box");
  ASSERT_TRUE(stats.has_value());
  EXPECT_EQ(stats->memory_current, 0U);
  EXPECT_EQ(stats->memory_limit, ~uint64_t{0});
  EXPECT_THAT(*sandbox_->Pids("box"), ElementsAre(testing::Pair(pause_, "")));
  EXPECT_TRUE(sandbox_->UpdateContainer("box", R"({"cpu":{"shares":5}})").has_value());
  EXPECT_TRUE(sandbox_->PauseContainer("box").has_value());
  EXPECT_EQ(sandbox_->State("box", "")->status, ProcessStatus::kPaused);
  EXPECT_EQ(Run("web", Workload({"true"})).status, 0U) << "nobody else is paused with it";
  EXPECT_TRUE(sandbox_->ResumeContainer("box").has_value());
  EXPECT_EQ(CodeOf(sandbox_->ResumeContainer("box")), Code::kFailedPrecondition);
  EXPECT_EQ(CodeOf(sandbox_->DeleteProcess("box", "")), Code::kFailedPrecondition);
  EXPECT_TRUE(sandbox_->Signal("box", "", SIGHUP, false).has_value());
  EXPECT_EQ(sandbox_->State("box", "")->status, ProcessStatus::kRunning);
}

TEST_F(SandboxPodTest, ItsEndIsTheEndOfTheOthersFirst) {
  BootPod();
  Sleeper("a");
  Sleeper("b", pause_);
  ASSERT_TRUE(sandbox_->Signal("box", "", SIGTERM, false).has_value());
  EXPECT_EQ(sandbox_->Wait("box", "")->status, 0U);
  EXPECT_EQ(sandbox_->State("a", "")->status, ProcessStatus::kStopped);
  EXPECT_EQ(sandbox_->State("b", "")->exit->status, 137U);
  const auto late = sandbox_->CreateContainer(
      ContainerOf("late", MakeBundle("late", Workload({"true"})), false, false));
  EXPECT_EQ(CodeOf(late), Code::kFailedPrecondition);
  EXPECT_EQ(CodeOf(sandbox_->Signal("box", "", SIGKILL, false)), Code::kNotFound);
  for (const char* id : {"a", "b", "box"}) {
    EXPECT_TRUE(sandbox_->DeleteProcess(id, "").has_value()) << id;
  }
}

TEST_F(SandboxPodTest, DeathOfItsAnchorIsItsOwn) {
  BootPod();
  Sleeper("a");
  ASSERT_EQ(kill(pause_, SIGKILL), 0);
  EXPECT_EQ(sandbox_->Wait("box", "")->status, 137U);
  EXPECT_EQ(sandbox_->Wait("a", "")->status, 137U);
}

TEST_F(SandboxPodTest, OneThatWasNeverStartedIsDeleted) {
  BootPod(/*started=*/false);
  EXPECT_EQ(sandbox_->DeleteProcess("box", "")->status, 137U);
  EXPECT_EQ(CodeOf(sandbox_->State("box", "")), Code::kNotFound);
}

TEST_F(SandboxPodTest, OutputOfWhatNeverRunsEnds) {
  BundleOptions pause;
  pause.annotations = R"({"io.kubernetes.cri-o.ContainerType":"sandbox"})";
  Boot(pause);
  auto io = sandbox_->CreateContainer(ContainerOf("box", dir_ + "/bundle-box", true, true));
  ASSERT_TRUE(io.has_value()) << io.error().message();
  ASSERT_TRUE(sandbox_->StartProcess("box", "").has_value());
  EXPECT_EQ(Drain(io->stdout_stream), "");
}

TEST_F(SandboxPodTest, HostNameAndIpcAreThePods) {
  BootPod();
  // The guest is this host here, and its own namespaces are ours.
  const std::string command = "readlink /proc/self/ns/uts; readlink /proc/self/ns/ipc";
  const std::string ours = std::filesystem::read_symlink("/proc/self/ns/uts").string() + "\n" +
                           std::filesystem::read_symlink("/proc/self/ns/ipc").string() + "\n";
  EXPECT_EQ(Run("a", Workload({"sh", "-c", command})).out, ours);
}

TEST_F(SandboxPodTest, ProcessesAreSharedWithThePodOrWithOneContainer) {
  BootPod();
  const pid_t target = Sleeper("target");
  Sleeper("shared", pause_);
  EXPECT_EQ(Run("b", Workload({"cat", "/proc/1/comm"}, pause_)).out, "pause\n");
  const std::string all = "cat /proc/[0-9]*/comm | grep -c sleep";
  EXPECT_EQ(Run("c", Workload({"sh", "-c", all}, pause_)).out, "1\n");
  EXPECT_EQ(Run("debug", Workload({"cat", "/proc/1/comm"}, target)).out, "sleep\n");
  EXPECT_EQ(Run("d", Workload({"cat", "/proc/1/comm"})).out, "cat\n");
}

TEST_F(SandboxPodTest, NamespacesOfOthersAreRefusedAndNothingIsLeft) {
  BootPod();
  for (const pid_t of : {1, getpid()}) {
    auto made = sandbox_->CreateContainer(
        ContainerOf("x", MakeBundle("x", Workload({"true"}, of)), false, false));
    EXPECT_EQ(CodeOf(made), Code::kInvalidArgument);
    EXPECT_THAT(made.error().message(), HasSubstr("no pid namespace of this pod"));
  }
  EXPECT_THAT(sandbox_->ContainerIds(), ElementsAre("box"));
}

TEST_F(SandboxPodTest, SharedMemoryIsInTheGuestWithItsSize) {
  shm_ = dir_ + "/shm";
  ASSERT_EQ(mkdir(shm_.c_str(), 0755), 0);
  ASSERT_EQ(mount("shm", shm_.c_str(), "tmpfs", 0, "size=8m"), 0);
  BootPod();
  EXPECT_EQ(Run("a", Workload({"sh", "-c", "echo of-a > /dev/shm/x"})).status, 0U);
  const Ran ran = Run("b", Workload({"sh", "-c", "cat /dev/shm/x; df -k /dev/shm | grep -c 8192"}));
  EXPECT_EQ(ran.out, "of-a\n1\n");
  EXPECT_TRUE(std::filesystem::is_empty(shm_)) << "the host's is not used";
  EXPECT_EQ(umount(shm_.c_str()), 0);
}

// The Sandbox API's, where containerd prepares nothing.
TEST_F(SandboxPodTest, WhatAContainerDoesNotMountItHasFromThePod) {
  ASSERT_TRUE(WriteFile(dir_ + "/resolv.conf", "nameserver 10.96.0.10\n").has_value());
  files_ = R"(,{"destination":"/etc/resolv.conf","type":"bind","source":")" + dir_ +
           R"(/resolv.conf","options":["rbind","ro"]})";
  BootPod();
  const auto with_tmpfs = [this](const std::string& script) {
    BundleOptions options = Workload({"sh", "-c", script});
    options.mounts = R"(,{"destination":"/dev/shm","type":"tmpfs","source":"shm"})";
    return options;
  };
  EXPECT_EQ(Run("a", with_tmpfs("echo of-a > /dev/shm/x")).status, 0U);
  EXPECT_EQ(Run("b", with_tmpfs("cat /dev/shm/x /etc/resolv.conf")).out,
            "of-a\nnameserver 10.96.0.10\n");
  BundleOptions own = with_tmpfs("cat /dev/shm/x || echo none");
  own.namespaces = R"({"type":"ipc"},{"type":"uts"},{"type":"pid"},{"type":"mount"})";
  EXPECT_EQ(Run("c", own).out, "none\n") << "whose System V IPC is its own";
}

TEST_F(SandboxPodTest, SharedMemoryThatIsNotThereIsNamed) {
  shm_ = "/absent-shm";
  BundleOptions pause;
  pause.annotations = R"({"io.kubernetes.cri.container-type":"sandbox"})";
  pause.mounts = ShmMount();
  const auto sandbox = StartSandboxOf(MakeBundle("box", pause));
  ASSERT_FALSE(sandbox.has_value());
  EXPECT_THAT(sandbox.error().message(), HasSubstr("/absent-shm"));
}

// The guest is this host here: what listens on its own loopback is found by who dials that of the pod's namespace.
class ForwardTest : public SandboxPodTest {
 protected:
  void SetUp() override {
    SandboxPodTest::SetUp();
    if (!IsSkipped()) {
      network_ = Must(MakeNetworkNamespace());
    }
  }

  // What is heard after `say`; the errno of a connection that is refused or reset.
  std::string Talk(uint16_t port, const std::string& say) {
    std::string heard;
    const auto done = InNetworkNamespace(network_, [&]() -> Result<> {
      UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
      sockaddr_in address{};
      address.sin_family = AF_INET;
      address.sin_port = htons(port);
      address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
      if (connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
        return SysError("connect");
      }
      WV_TRY_VOID(WriteAll(fd, std::string_view(say)));
      shutdown(fd.get(), SHUT_WR);
      WV_TRY(heard, ReadToEnd(fd, 100));
      return {};
    });
    return done.has_value() ? heard : std::to_string(done.error().sys_errno());
  }

  UniqueFd network_;
};

TEST_F(ForwardTest, LoopbackOfThePodIsTheGuests) {
  BundleOptions pause;
  pause.annotations = R"({"io.kubernetes.cri.container-type":"sandbox"})";
  pause.network = fmt::format(R"(,{{"type":"network","path":"/proc/self/fd/{}"}})", network_.get());
  Boot(pause);
  ASSERT_NE(sandbox_, nullptr);
  UniqueFd listener(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  ASSERT_EQ(bind(listener.get(), reinterpret_cast<sockaddr*>(&address), size), 0);
  ASSERT_EQ(listen(listener.get(), 5), 0);
  ASSERT_EQ(getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
  const uint16_t port = ntohs(address.sin_port);
  auto served = std::async(std::launch::async, [&] {
    const UniqueFd connection = Must(Accept(listener));
    const std::string heard = Must(ReadToEnd(connection, 100));
    return WriteAll(connection, std::string_view("answer")).has_value() ? heard : "";
  });
  EXPECT_EQ(Talk(port, "question"), "answer");
  EXPECT_EQ(served.get(), "question");
  listener.Reset();
  EXPECT_EQ(Talk(port, "question"), std::to_string(ECONNRESET)) << "nobody listens any more";
  ASSERT_TRUE(sandbox_->Shutdown().has_value());
  EXPECT_EQ(Talk(port, "question"), std::to_string(ECONNREFUSED)) << "nothing is left";
}

}  // namespace
}  // namespace wyvern::runtime
