// The real programs on a host whose KVM interprets guests: a start fails soon, says why in one message, and leaves nothing.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/subprocess.h"
#include "base/unix_socket.h"
#include "proto/containerd_task.pb.h"
#include "proto/containerd_types.pb.h"
#include "storage/testing/private_mounts.h"
#include "ttrpc/client.h"

namespace wyvern::cli {
namespace {

namespace fs = std::filesystem;
namespace pb = wyvern::shim::pb;
namespace task = containerd::task::v2;
using Clock = std::chrono::steady_clock;
using Strings = std::vector<std::string>;
using testing::HasSubstr;
using testing::IsEmpty;

// Two probes of two seconds, and a busy machine.
constexpr std::chrono::seconds kInterpretedBound(20);
constexpr int kCommandMs = 30000;
constexpr const char* kTaskService = "containerd.task.v2.Task";

Result<CommandOutput> RunIn(const std::string& cwd, Strings argv, Strings env = {}) {
  SpawnOptions options;
  options.argv = std::move(argv);
  options.env = std::move(env);
  options.env.emplace_back("PATH=/usr/sbin:/usr/bin:/sbin:/bin");
  options.cwd = cwd;
  return RunCommand(options, kCommandMs);
}

// Where cgroup v2 is mounted; empty: nowhere.
std::string CgroupRoot() {
  const auto mounts = ReadFile("/proc/self/mounts", 1 << 20);
  std::istringstream lines(mounts.value_or(""));
  std::string device;
  std::string path;
  std::string type;
  for (std::string line; std::getline(lines, line);) {
    std::istringstream(line) >> device >> path >> type;
    if (type == "cgroup2") {
      return path;
    }
  }
  return "";
}

// What `wyvern check` says of KVM, if it is that it interprets guests.
std::string InterpretedKvm(const std::string& cwd) {
  const auto checked = RunIn(cwd, {WYVERN_BINARY, "check", "--json"});
  if (!checked.has_value()) {
    return "";
  }
  const auto findings = nlohmann::json::parse(checked->out, nullptr, false);
  for (const auto& finding : findings) {
    if (finding.value("name", "") == "kvm") {
      const std::string text = finding.value("text", "");
      return text.find("interprets guests") != std::string::npos ? text : "";
    }
  }
  return "";
}

Strings MessagesIn(const std::string& text) {
  Strings messages;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (!line.empty() && line.find(" INFO ") == std::string::npos) {
      messages.push_back(line);
    }
  }
  return messages;
}

// Processes of our programs.
Strings OurProcesses() {
  Strings found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator("/proc", error)) {
    const std::string program = fs::read_symlink(entry.path() / "exe", error).string();
    for (const char* ours : {WYVERN_BINARY, WYVERN_VMM_BINARY, WYVERN_FS_BINARY,
                             WYVERN_ANCHOR_BINARY, WYVERN_SHIM_BINARY}) {
      if (program == ours) {
        found.push_back(entry.path().filename().string() + " " + program);
      }
    }
  }
  return found;
}

Strings EntriesOf(const std::string& directory) {
  Strings found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory, error)) {
    found.push_back(entry.path().string());
  }
  return found;
}

// In a mount namespace with its own /etc and /var/lib, so that the host's configuration and images are neither read nor touched.
class InterpretedKvmTest : public runtime::PrivateMountsTest {
 protected:
  void SetUp() override {
    PrivateMountsTest::SetUp();
    if (dir_.empty()) {
      return;
    }
    cgroups_ = CgroupRoot();
    if (cgroups_.empty()) {
      GTEST_SKIP() << "no cgroup v2 is mounted here";
    }
    MakeDir("etc");
    MakeDir("etc/wyvern");
    MakeDir("lib");
    MakeDir("state");
    MakeDir("root");
    MakeFile(
        "etc/wyvern/wyvern.yaml",
        fmt::format("paths:\n  vmm: {}\n  fs: {}\n  anchor: {}\nstate_dir: {}/state\n"
                    "cgroup_root: {}\n",
                    WYVERN_VMM_BINARY, WYVERN_FS_BINARY, WYVERN_ANCHOR_BINARY, dir_, cgroups_));
    ASSERT_EQ(mount((dir_ + "/etc").c_str(), "/etc", nullptr, MS_BIND, nullptr), 0);
    ASSERT_EQ(mount((dir_ + "/lib").c_str(), "/var/lib", nullptr, MS_BIND, nullptr), 0);
    mounted_ = true;
    if (InterpretedKvm(dir_).empty()) {
      GTEST_SKIP() << "this host's KVM does not interpret guests (wyvern check --json)";
    }
    cgroups_before_ = Cgroups();
  }

  void TearDown() override {
    if (mounted_) {
      umount2("/etc", MNT_DETACH);
      umount2("/var/lib", MNT_DETACH);
    }
    PrivateMountsTest::TearDown();
  }

  // Those that our names could be in.
  Strings Cgroups() const {
    Strings found;
    std::error_code error;
    for (const auto& entry : fs::recursive_directory_iterator(cgroups_, error)) {
      if (entry.is_directory(error) &&
          entry.path().string().find("interpreted") != std::string::npos) {
        found.push_back(entry.path().string());
      }
    }
    return found;
  }

  void ExpectNothingLeft() const {
    EXPECT_THAT(OurProcesses(), IsEmpty());
    EXPECT_THAT(EntriesOf(dir_ + "/state"), IsEmpty());
    EXPECT_THAT(EntriesOf("/var/lib/wyvern/run"), IsEmpty());
    EXPECT_EQ(Cgroups(), cgroups_before_);
    const auto mounts = ReadFile("/proc/self/mounts", 1 << 20);
    ASSERT_TRUE(mounts.has_value());
    EXPECT_EQ(mounts->find(dir_ + "/"), std::string::npos) << *mounts;
  }

  // The bundle of a container of busybox's kind.
  std::string MakeBundle(const std::string& id) const {
    MakeDir(id);
    MakeDir(id + "/rootfs");
    MakeFile(
        id + "/config.json",
        R"({"ociVersion":"1.0.2","process":{"args":["true"],"cwd":"/"},"root":{"path":"rootfs"},)"
        R"("linux":{"namespaces":[{"type":"pid"},{"type":"mount"},{"type":"network"}],)"
        R"("cgroupsPath":"/wyvern-interpreted/)" +
            id + "\"}}");
    return dir_ + "/" + id;
  }

  Result<CommandOutput> RunShim(const std::string& id, Strings action) const {
    Strings argv = {WYVERN_SHIM_BINARY, "-namespace", "interpreted", "-address", dir_ + "/c.sock",
                    "-publish-binary",  "/bin/true",  "-id",         id};
    argv.insert(argv.end(), action.begin(), action.end());
    return RunIn(
        dir_ + "/" + id, std::move(argv),
        {"TTRPC_ADDRESS=" + dir_ + "/no-containerd", "WYVERN_SHIM_SOCKET_DIR=" + dir_ + "/s"});
  }

  std::string cgroups_;
  Strings cgroups_before_;
  bool mounted_ = false;
};

TEST_F(InterpretedKvmTest, RunFailsSoonWithOneMessageAndLeavesNothing) {
  const auto begin = Clock::now();
  const auto done =
      RunIn(dir_, {WYVERN_BINARY, "run", "--name", "interpreted", dir_ + "/root", "--", "true"});
  ASSERT_TRUE(done.has_value()) << done.error().message();
  EXPECT_LT(Clock::now() - begin, kInterpretedBound);
  EXPECT_EQ(done->status.AsShell(), 125) << done->err;
  const Strings messages = MessagesIn(done->err);
  ASSERT_EQ(messages.size(), 1U) << done->err;
  EXPECT_THAT(messages[0], HasSubstr("/dev/kvm"));
  EXPECT_THAT(messages[0], HasSubstr("interprets guests"));
  EXPECT_THAT(messages[0], HasSubstr("use a host with hardware virtualization"));
  ExpectNothingLeft();
}

TEST_F(InterpretedKvmTest, CreateOfTheShimFailsSoonAndDeleteLeavesNothing) {
  const std::string bundle = MakeBundle("interpreted-shim");
  const auto started = RunShim("interpreted-shim", {"start"});
  ASSERT_TRUE(started.has_value()) << started.error().message();
  ASSERT_TRUE(started->out.starts_with("unix://")) << started->out << started->err;
  auto socket = ConnectUnix(started->out.substr(7));
  ASSERT_TRUE(socket.has_value()) << socket.error().message();
  auto client = ttrpc::Client::Create(std::move(*socket));
  ASSERT_TRUE(client.has_value());
  task::CreateTaskRequest create;
  create.set_id("interpreted-shim");
  create.set_bundle(bundle);
  const auto begin = Clock::now();
  const auto created = (*client)->Call<task::CreateTaskRequest, task::CreateTaskResponse>(
      kTaskService, "Create", create);
  EXPECT_LT(Clock::now() - begin, kInterpretedBound);
  ASSERT_FALSE(created.has_value());
  EXPECT_THAT(created.error().message(), HasSubstr("interprets guests"));
  // As containerd does after a Create that failed.
  task::ShutdownRequest shutdown;
  shutdown.set_id("interpreted-shim");
  (void)(*client)->Call<task::ShutdownRequest, pb::Empty>(kTaskService, "Shutdown", shutdown);
  const auto deleted = RunShim("interpreted-shim", {"-bundle", bundle, "delete"});
  ASSERT_TRUE(deleted.has_value()) << deleted.error().message();
  EXPECT_EQ(deleted->status.AsShell(), 0) << deleted->err;
  for (int i = 0; i < 500 && !OurProcesses().empty(); ++i) {
    usleep(10000);
  }
  ExpectNothingLeft();
}

}  // namespace
}  // namespace wyvern::cli
