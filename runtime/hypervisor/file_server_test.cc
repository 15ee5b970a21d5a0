// The real wyvern-fs as the runtime starts it; no front-end: only what the control socket and the mount namespace show.
#include "hypervisor/file_server.h"

#include <gmock/gmock.h>
#include <sys/mount.h>

#include <csignal>

#include "storage/exports.h"
#include "storage/testing/private_mounts.h"

namespace wyvern::runtime {
namespace {

class FileServerTest : public PrivateMountsTest {
 protected:
  void SetUp() override {
    PrivateMountsTest::SetUp();
    if (dir_.empty()) {
      return;
    }
    MachineOptions options;
    options.fs_binary = WV_FS;
    auto spawned = FileServerProcess::Spawn(options);
    ASSERT_TRUE(spawned.has_value()) << spawned.error().message();
    server_ = std::move(spawned->first);
    vhost_ = std::move(spawned->second);
  }

  void TearDown() override {
    if (server_ != nullptr) {
      static_cast<void>(server_->process().Kill(SIGKILL));
      static_cast<void>(server_->process().Wait());
    }
    PrivateMountsTest::TearDown();
  }

  Result<> Attach(const std::string& source, const std::string& name) {
    WV_TRY(const UniqueFd tree, CloneTree(source, {}));
    return server_->Attach(name, tree, {std::chrono::milliseconds(1000), false});
  }

  std::unique_ptr<FileServerProcess> server_;
  UniqueFd vhost_;
};

TEST_F(FileServerTest, HostSeesNothingOfTheShare) {
  MakeFile("file", "x");
  ASSERT_TRUE(Attach(dir_, "c0-root").has_value());
  EXPECT_NE(access("/c0-root", F_OK), 0);
  EXPECT_TRUE(ReadFile("/proc/" + std::to_string(server_->process().pid()) + "/root/c0-root/file")
                  .has_value());
}

TEST_F(FileServerTest, DetachFreesTheDevice) {
  const std::string source = MakeDir("source");
  ASSERT_EQ(mount("tmpfs", source.c_str(), "tmpfs", 0, nullptr), 0);
  const auto attached = Attach(source, "c0-v0");
  ASSERT_TRUE(attached.has_value()) << attached.error().message();
  EXPECT_FALSE(Attach(source, "c0-v0").has_value());
  EXPECT_TRUE(server_->Detach("c0-v0").has_value());
  EXPECT_EQ(umount2(source.c_str(), 0), 0);
  EXPECT_TRUE(server_->Detach("c0-v0").has_value());
  EXPECT_TRUE(server_->Detach("c0-v1").has_value());
}

TEST_F(FileServerTest, EndsWhenItsSocketsDo) {
  ASSERT_TRUE(Attach(dir_, "c0-root").has_value());
  vhost_.Reset();
  EXPECT_EQ(server_->process().Wait()->signal, 0);
  server_.reset();
}

}  // namespace
}  // namespace wyvern::runtime
