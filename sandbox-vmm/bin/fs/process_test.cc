// The binary itself: started as the runtime does, seen from outside.
#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "base/check.h"
#include "base/subprocess.h"
#include "base/unix_socket.h"
#include "fs/testing/fuse_guest.h"
#include "vhost_user/frontend.h"

namespace wyvern::fs_process {
namespace {

using std::chrono::milliseconds;

class ProcessTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) {
      GTEST_SKIP() << "needs root";
    }
    std::string pattern = (std::filesystem::temp_directory_path() / "wyvern-fsp-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
    std::ofstream(directory_ + "/hello") << "hello from the host";
    auto vhost = MakeSocketPair(SOCK_STREAM);
    auto control = MakeSocketPair(SOCK_SEQPACKET);
    SpawnOptions spawn;
    spawn.argv = {WV_FS, "--tag", "t", "--queues", "1", "--shared-dir", directory_};
    spawn.fds = {{2, FdRef(2)}, {3, vhost->second}, {4, control->second}};
    auto process = Subprocess::Spawn(spawn);
    ASSERT_TRUE(process.has_value()) << process.error().message();
    process_.emplace(*std::move(process));
    socket_ = std::move(vhost->first);
    control_ = std::move(control->first);
  }

  void TearDown() override {
    socket_.Reset();
    if (process_) {
      static_cast<void>(process_->Kill(SIGKILL));
    }
    std::error_code ignored;
    std::filesystem::remove_all(directory_, ignored);
  }

  std::string Say(std::string_view command) {
    const std::string packet = fmt::format("1 {}", command);
    EXPECT_TRUE(SendMessage(control_, std::as_bytes(std::span(packet)), {}).has_value());
    std::array<std::byte, 512> buffer{};
    const auto answer = ReceiveMessage(control_, buffer, 0);
    return answer ? std::string(reinterpret_cast<const char*>(buffer.data()), answer->size) : "";
  }

  std::string directory_;
  std::optional<Subprocess> process_;
  UniqueFd socket_;
  UniqueFd control_;
};

TEST_F(ProcessTest, EveryThreadIsConfined) {
  ASSERT_EQ(Say("ping"), "1 ok");
  const std::string proc = fmt::format("/proc/{}", process_->pid());
  int threads = 0;
  for (const auto& task : std::filesystem::directory_iterator(proc + "/task")) {
    const auto status = ReadFile(task.path().string() + "/status");
    ASSERT_TRUE(status.has_value());
#ifndef WV_SANITIZED  // a sanitized server has no filter
    EXPECT_NE(status->find("Seccomp:\t2\n"), std::string::npos);
#endif
    EXPECT_NE(status->find("NoNewPrivs:\t1\n"), std::string::npos);
    EXPECT_NE(status->find("CapEff:\t00000000880000db\n"), std::string::npos) << *status;
    ++threads;
  }
  EXPECT_GE(threads, 2);
  // Its mounts: the share, and nothing of the host.
  const auto mounts = ReadFile(proc + "/mountinfo");
  EXPECT_EQ(std::ranges::count(*mounts, '\n'), 1) << *mounts;
  for (const char* space : {"mnt", "net", "ipc"}) {
    EXPECT_NE(std::filesystem::read_symlink(proc + "/ns/" + space),
              std::filesystem::read_symlink(std::string("/proc/self/ns/") + space));
  }
}

TEST_F(ProcessTest, ServesAndEndsWithItsFrontEnd) {
  {
    auto device = vhost_user::Frontend::CreateFs(std::move(socket_), "t", 1, 64);
    ASSERT_TRUE(device.has_value()) << device.error().message();
    fs::testing::FuseGuest guest;
    const auto started = guest.Start(**device);
    ASSERT_TRUE(started.has_value()) << started.error().message();
    EXPECT_TRUE(guest.Init());
    EXPECT_EQ(guest.ReadFile("hello"), "hello from the host");
    EXPECT_EQ(Say("stats").substr(0, 5), "1 ok ");
  }
  WV_CHECK(process_.has_value());
  const auto status = process_->Wait();
  ASSERT_TRUE(status.has_value());
  EXPECT_EQ(status->AsShell(), 0);
  process_.reset();
}

TEST(ArgumentsTest, WrongLogLevelIsNamed) {
  const auto output =
      RunCommand({.argv = {WV_FS, "--log-level", "loud"}, .env = {}, .fds = {}, .cwd = ""}, 10000);
  ASSERT_TRUE(output.has_value()) << output.error().message();
  EXPECT_EQ(output->status.AsShell(), 2);
  EXPECT_NE(output->err.find("bad option or value: --log-level loud\n"), std::string::npos)
      << output->err;
  EXPECT_NE(output->err.find("debug, info, warn or error"), std::string::npos) << output->err;
}

}  // namespace
}  // namespace wyvern::fs_process
