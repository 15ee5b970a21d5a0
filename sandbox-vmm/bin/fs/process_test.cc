// The binary itself: started as the runtime does, seen from outside.
#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "base/check.h"
#include "base/subprocess.h"
#include "base/unix_socket.h"
#include "fs/testing/fuse_guest.h"
#include "mem/file_window.h"
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
    Spawn({});
  }

  void Spawn(const std::vector<std::string>& options) {
    std::string pattern = (std::filesystem::temp_directory_path() / "wyvern-fsp-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
    std::ofstream(directory_ + "/hello") << "hello from the host";
    auto vhost = MakeSocketPair(SOCK_STREAM);
    auto control = MakeSocketPair(SOCK_SEQPACKET);
    SpawnOptions spawn;
    spawn.argv = {WV_FS, "--tag", "t", "--queues", "1", "--shared-dir", directory_};
    spawn.argv.insert(spawn.argv.end(), options.begin(), options.end());
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

// The runtime must not wait for a front-end, which is the VMM, and not trusted.
TEST_F(ProcessTest, ControlIsServedWhileTheFrontEndIsSlowInAMessage) {
  ASSERT_EQ(Say("ping"), "1 ok");
  constexpr std::array<std::byte, 4> kHalfAHeader{};
  ASSERT_TRUE(WriteAll(socket_, kHalfAHeader));
  std::this_thread::sleep_for(milliseconds(100));  // it has been seen
  const auto before = std::chrono::steady_clock::now();
  EXPECT_EQ(Say("stats").substr(0, 5), "1 ok ");
  // The rest of a message is waited for, for 5 s.
  EXPECT_LT(std::chrono::steady_clock::now() - before, milliseconds(2000));
}

class OptionsProcessTest : public ProcessTest {
 protected:
  static constexpr uint64_t kRange = 2 << 20;

  void SetUp() override {
    if (::geteuid() != 0) {
      GTEST_SKIP() << "needs root";
    }
    Spawn({"--posix-lock", "--flock", "--posix-acl", "--dax-window-mib", "8"});
    window_ = *mem::FileWindow::Create(4 * kRange);
    auto device = vhost_user::Frontend::CreateFs(std::move(socket_), "t", 1, 64, {}, window_);
    ASSERT_TRUE(device.has_value()) << device.error().message();
    device_ = *std::move(device);
    device_->set_lost_callback([this](const std::string& /*why*/) { lost_ = true; });
    ASSERT_TRUE(guest_.Start(*device_));
    fuse_init_in init{};
    init.major = 7;
    init.minor = 38;
    init.flags = FUSE_MAX_PAGES | FUSE_POSIX_LOCKS | FUSE_FLOCK_LOCKS;
    ASSERT_EQ(guest_.Call(FUSE_INIT, 0, fs::testing::FuseGuest::Bytes(init), 64).size(), 64U);
  }

  void TearDown() override {
    device_.reset();
    ProcessTest::TearDown();
  }

  // 0, or why not.
  int Map(uint64_t node, uint64_t window_offset) {
    fuse_setupmapping_in map{};
    map.fh = ~uint64_t{0};
    map.len = kRange;
    map.flags = FUSE_SETUPMAPPING_FLAG_READ;
    map.moffset = window_offset;
    int error = -1;
    guest_.Call(FUSE_SETUPMAPPING, node, fs::testing::FuseGuest::Bytes(map), 16, &error);
    return error;
  }

  fs::testing::FuseGuest guest_;
  std::shared_ptr<mem::FileWindow> window_;
  std::atomic<bool> lost_{false};
  std::unique_ptr<vhost_user::Frontend> device_;
};

// Under the process' own filter and in its own root.
TEST_F(OptionsProcessTest, FileIsReadThroughTheWindow) {
  ASSERT_EQ(Map(guest_.OpenFile("hello").first, kRange), 0);
  // NOLINTNEXTLINE(performance-no-int-to-ptr): an address of the window is a number
  const auto* seen = reinterpret_cast<const char*>(window_->host_address() + kRange);
  EXPECT_EQ(std::string(seen, 19), "hello from the host");
  EXPECT_EQ(Say("stats").substr(0, 5), "1 ok ");
}

TEST_F(OptionsProcessTest, LocksAreTakenAndWaitedFor) {
  const auto [node, handle] = guest_.OpenFile("hello");
  const UniqueFd host = *Open(directory_ + "/hello", O_RDWR);

  struct flock range {};

  range.l_type = F_RDLCK;
  ASSERT_EQ(::fcntl(host.get(), F_OFD_SETLK, &range), 0);
  fuse_lk_in lock{};
  lock.fh = handle;
  lock.owner = 7;
  lock.lk = {0, 99, F_WRLCK, 0};
  int error = -1;
  guest_.Call(FUSE_SETLK, node, fs::testing::FuseGuest::Bytes(lock), 16, &error);
  // A file of the guest's that is open for reading has its locks on one that is open for both.
  EXPECT_EQ(error, EAGAIN);
  const uint16_t waits = guest_.Submit(FUSE_SETLKW, node, fs::testing::FuseGuest::Bytes(lock), 16);
  std::this_thread::sleep_for(milliseconds(20));  // the timer is armed more than once
  range.l_type = F_UNLCK;
  ASSERT_EQ(::fcntl(host.get(), F_OFD_SETLK, &range), 0);
  guest_.Await(waits, &error);
  EXPECT_EQ(error, 0);
}

// As when memory is plugged: the queues stop, the memory table is another one, the queues go on.
TEST_F(OptionsProcessTest, LockIsWaitedForAcrossAChangeOfTheMemory) {
  const auto [node, handle] = guest_.OpenFile("hello");
  const UniqueFd host = *Open(directory_ + "/hello", O_RDWR);

  struct flock range {};

  range.l_type = F_RDLCK;
  ASSERT_EQ(::fcntl(host.get(), F_OFD_SETLK, &range), 0);
  fuse_lk_in lock{};
  lock.fh = handle;
  lock.owner = 7;
  lock.lk = {0, 99, F_WRLCK, 0};
  const uint16_t waits = guest_.Submit(FUSE_SETLKW, node, fs::testing::FuseGuest::Bytes(lock), 16);
  std::this_thread::sleep_for(milliseconds(20));
  const mem::RegionInfo& old = guest_.ram().memory()->regions().front();
  for (int change = 0; change < 3; ++change) {
    guest_.Stop(*device_);
    std::vector<mem::RegionSpec> specs;
    specs.push_back({.start = old.start,
                     .size = old.size,
                     .fd = UniqueFd(::fcntl(old.fd.get(), F_DUPFD_CLOEXEC, 0))});
    auto memory = mem::GuestMemory::Create(std::move(specs));
    ASSERT_TRUE(memory.has_value());
    ASSERT_TRUE(guest_.Resume(*device_, *std::move(memory)));
  }
  range.l_type = F_UNLCK;
  ASSERT_EQ(::fcntl(host.get(), F_OFD_SETLK, &range), 0);
  int error = -1;
  guest_.Await(waits, &error);
  EXPECT_EQ(error, 0);
  EXPECT_EQ(guest_.ReadFile("hello"), "hello from the host");
  EXPECT_FALSE(lost_);
}

TEST_F(OptionsProcessTest, EndOfTheProcessEmptiesTheWindow) {
  ASSERT_EQ(Map(guest_.OpenFile("hello").first, 0), 0);
  WV_CHECK(process_.has_value());
  ASSERT_TRUE(process_->Kill(SIGKILL));
  for (int i = 0; i < 1000 && !lost_; ++i) {
    std::this_thread::sleep_for(milliseconds(10));
  }
  ASSERT_TRUE(lost_);
  const PipePair pipe = *MakePipe();
  // NOLINTNEXTLINE(performance-no-int-to-ptr): an address of the window is a number
  EXPECT_EQ(::write(pipe.write.get(), reinterpret_cast<const void*>(window_->host_address()), 1),
            -1);
  EXPECT_EQ(errno, EFAULT);
}

TEST(ArgumentsTest, WrongWindowsAreNamed) {
  for (const char* size : {"0", "1", "3", "24", "16385", "32768", "-2", "2M", "99999999999", ""}) {
    const auto output = RunCommand(
        {.argv = {WV_FS, "--dax-window-mib", size}, .env = {}, .fds = {}, .cwd = ""}, 10000);
    ASSERT_TRUE(output.has_value()) << output.error().message();
    EXPECT_EQ(output->status.AsShell(), 2) << size;
    const std::string line = fmt::format("bad option or value: --dax-window-mib {}\n", size);
    EXPECT_NE(output->err.find(line), std::string::npos) << output->err;
    EXPECT_NE(output->err.find("a power of two from 2 to"), std::string::npos) << output->err;
  }
}

TEST(ArgumentsTest, LocksAndAclsTakeNoValue) {
  for (const char* flag : {"--posix-lock", "--flock", "--posix-acl"}) {
    const auto output =
        RunCommand({.argv = {WV_FS, flag, "on"}, .env = {}, .fds = {}, .cwd = ""}, 10000);
    ASSERT_TRUE(output.has_value()) << output.error().message();
    EXPECT_EQ(output->status.AsShell(), 2) << flag;
    EXPECT_NE(output->err.find("bad option or value: on"), std::string::npos) << output->err;
  }
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
