// A guest goes from one wyvern-fs to the next, both confined, with its state through our front-end.
#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/subprocess.h"
#include "base/unix_socket.h"
#include "fs/testing/fuse_guest.h"
#include "vhost_user/frontend.h"

namespace wyvern::fs_process {
namespace {

class MigrationTest : public ::testing::Test {
 protected:
  // A server as a process, and our end of its device.
  class Side {
   public:
    Side(const std::string& base, int number, const std::vector<std::string>& options)
        : log_(fmt::format("{}/log-{}", base, number)) {
      auto vhost = MakeSocketPair(SOCK_STREAM);
      const UniqueFd log = *Open(log_, O_CREAT | O_WRONLY, 0600);
      SpawnOptions spawn;
      spawn.argv = {WV_FS, "--tag", "t", "--queues", "1", "--shared-dir", base + "/share"};
      spawn.argv.insert(spawn.argv.end(), options.begin(), options.end());
      spawn.fds = {{2, log}, {3, vhost->second}};
      process_.emplace(*Subprocess::Spawn(spawn));
      device = *vhost_user::Frontend::CreateFs(std::move(vhost->first), "t", 1, 64);
    }

    ~Side() {
      device.reset();
      static_cast<void>(process_->Kill(SIGKILL));
    }

    Side(const Side&) = delete;
    Side& operator=(const Side&) = delete;

    // What it has logged; a line may be on its way.
    bool Says(const std::string& words) const {
      for (int i = 0; i < 200; ++i) {
        if (ReadFile(log_).value_or("").find(words) != std::string::npos) {
          return true;
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
      }
      ADD_FAILURE() << ReadFile(log_).value_or("no log");
      return false;
    }

    std::unique_ptr<vhost_user::Frontend> device;

   private:
    std::string log_;
    std::optional<Subprocess> process_;
  };

  void SetUp() override {
    if (::geteuid() != 0) {
      GTEST_SKIP() << "needs root";
    }
    ASSERT_NE(::mkdtemp(base_.data()), nullptr);
    ASSERT_EQ(::mkdir((base_ + "/share").c_str(), 0755), 0);
    std::ofstream(base_ + "/share/hello") << "hello from the host";
    std::ofstream(base_ + "/share/other") << "another file";
  }

  void TearDown() override {
    std::error_code ignored;
    std::filesystem::remove_all(base_, ignored);
  }

  std::unique_ptr<Side> Serve(const std::vector<std::string>& options = {}) {
    return std::make_unique<Side>(base_, ++sides_, options);
  }

  // A guest of `side` that has both files open.
  void Begin(Side& side) {
    ASSERT_TRUE(guest_.Start(*side.device));
    ASSERT_TRUE(guest_.Init());
    hello_ = guest_.OpenFile("hello");
    other_ = guest_.OpenFile("other");
    ASSERT_EQ(Read(hello_), "hello from the host");
  }

  std::vector<std::byte> Save(Side& side) {
    guest_.Stop(*side.device);
    auto state = side.device->SaveState();
    EXPECT_TRUE(state.has_value()) << state.error().message();
    return state ? *std::move(state) : std::vector<std::byte>();
  }

  std::string Read(const std::pair<uint64_t, uint64_t>& file, int* error = nullptr) {
    return guest_.Await(guest_.SubmitRead(file.first, file.second), error);
  }

  std::string base_ = (std::filesystem::temp_directory_path() / "wyvern-fsm-XXXXXX").string();
  int sides_ = 0;
  fs::testing::FuseGuest guest_;
  std::pair<uint64_t, uint64_t> hello_;
  std::pair<uint64_t, uint64_t> other_;
};

TEST_F(MigrationTest, GuestGoesOnInTheNextProcess) {
  auto here = Serve();
  Begin(*here);
  const std::vector<std::byte> state = Save(*here);
  auto there = Serve();
  const auto loaded = there->device->LoadState(state);
  ASSERT_TRUE(loaded.has_value()) << loaded.error().message();
  here.reset();
  ASSERT_TRUE(guest_.Resume(*there->device));
  EXPECT_EQ(Read(hello_), "hello from the host");
  EXPECT_EQ(Read(other_), "another file");
  EXPECT_EQ(guest_.OpenFile("hello").first, hello_.first);
  // And back again, to one that has not seen it.
  const std::vector<std::byte> again = Save(*there);
  auto third = Serve();
  ASSERT_TRUE(third->device->LoadState(again).has_value());
  there.reset();
  ASSERT_TRUE(guest_.Resume(*third->device));
  EXPECT_EQ(Read(hello_), "hello from the host");
}

TEST_F(MigrationTest, LossAbortsAndTheSourceGoesOn) {
  const auto here = Serve();
  Begin(*here);
  const std::vector<std::byte> state = Save(*here);
  ASSERT_EQ(::unlink((base_ + "/share/hello").c_str()), 0);
  std::ofstream(base_ + "/share/hello") << "of the same name";
  {
    const auto there = Serve();
    EXPECT_FALSE(there->device->LoadState(state).has_value());
    EXPECT_TRUE(there->Says("the guest would lose 1 inodes and 1 open files"));
  }
  ASSERT_TRUE(guest_.Resume(*here->device));
  EXPECT_EQ(Read(hello_), "hello from the host");
}

TEST_F(MigrationTest, LossIsTheGuestsWhenAskedFor) {
  auto here = Serve();
  Begin(*here);
  const std::vector<std::byte> state = Save(*here);
  ASSERT_EQ(::unlink((base_ + "/share/hello").c_str()), 0);
  const auto there = Serve({"--migration-on-error", "guest-error"});
  const auto loaded = there->device->LoadState(state);
  ASSERT_TRUE(loaded.has_value()) << loaded.error().message();
  EXPECT_TRUE(there->Says("the guest has lost 1 inodes and 1 open files"));
  ASSERT_TRUE(guest_.Resume(*there->device));
  int error = 0;
  Read(hello_, &error);
  EXPECT_EQ(error, EIO);
  EXPECT_EQ(Read(other_, &error), "another file");
  EXPECT_EQ(error, 0);
}

TEST_F(MigrationTest, BytesThatAreNoStateAreRefusedAndServedOn) {
  auto here = Serve();
  Begin(*here);
  std::vector<std::byte> state = Save(*here);
  const auto there = Serve();
  state.back() ^= std::byte{0xff};
  EXPECT_FALSE(there->device->LoadState(state).has_value());
  state.pop_back();
  EXPECT_FALSE(there->device->LoadState(state).has_value());
  EXPECT_FALSE(there->device->LoadState({}).has_value());
  EXPECT_TRUE(there->Says("the state of a file server: open file "));
  fs::testing::FuseGuest another;
  ASSERT_TRUE(another.Start(*there->device));
  ASSERT_TRUE(another.Init());
  EXPECT_EQ(another.ReadFile("hello"), "hello from the host");
}

TEST(MigrationArgumentsTest, WhatHappensOnErrorIsOneOfTwo) {
  for (const char* value : {"", "ignore", "Abort", "guest-error "}) {
    const auto output = RunCommand(
        {.argv = {WV_FS, "--migration-on-error", value}, .env = {}, .fds = {}, .cwd = ""}, 10000);
    ASSERT_TRUE(output.has_value()) << output.error().message();
    EXPECT_EQ(output->status.AsShell(), 2) << value;
    EXPECT_NE(output->err.find("--migration-on-error abort|guest-error"), std::string::npos)
        << output->err;
  }
}

}  // namespace
}  // namespace wyvern::fs_process
