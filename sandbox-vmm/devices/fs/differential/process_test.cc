// One script on a share of wyvern-fs, which runs as a process of its own under its filter and with its
// few capabilities, and on a directory beside it: fake driver, vhost-user, rings in shared memory.
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <optional>

#include "base/subprocess.h"
#include "base/unix_socket.h"
#include "fs/differential/comparison.h"
#include "fs/differential/fuse_target.h"
#include "fs/differential/ring_carrier.h"
#include "vhost_user/frontend.h"

namespace wyvern::fs::differential {
namespace {

// The process, and the front-end whose end is its end.
struct Served {
  Served() = default;
  Served(const Served&) = delete;
  Served& operator=(const Served&) = delete;

  ~Served() {
    carrier.reset();
    device.reset();
    if (process) {
      EXPECT_EQ(process->Wait()->AsShell(), 0);
    }
  }

  std::optional<Subprocess> process;
  UniqueFd control;
  std::unique_ptr<vhost_user::Frontend> device;
  std::shared_ptr<RingCarrier> carrier;
};

Subject ServedByAProcess(const std::string& directory) {
  auto vhost = MakeSocketPair(SOCK_STREAM);
  auto control = MakeSocketPair(SOCK_SEQPACKET);
  SpawnOptions spawn;
  spawn.argv = {WV_FS,     "--tag",        "t",       "--queues",   "1", "--shared-dir",
                directory, "--posix-lock", "--flock", "--posix-acl"};
  spawn.fds = {{2, FdRef(2)}, {3, vhost->second}, {4, control->second}};
  auto served = std::make_shared<Served>();
  served->process = *Subprocess::Spawn(spawn);
  vhost->second.Reset();
  control->second.Reset();
  served->control = std::move(control->first);
  served->device = *vhost_user::Frontend::CreateFs(std::move(vhost->first), "t", 1, 64);
  served->carrier = *RingCarrier::Create(
      *served->device, virtio::kRingPacked | virtio::kRingEventIdx | virtio::kRingIndirectDesc);
  auto target = std::make_unique<FuseTarget>(
      [carrier = served->carrier](auto request, auto out) { return carrier->Carry(request, out); });
  EXPECT_TRUE(target->acls());
  // README.md: it has no CAP_SYS_ADMIN.
  return {std::move(served), std::move(target), {.trusted_xattrs = false}};
}

TEST(ProcessDifferentialTest, ShareBehavesLikeTheDirectory) {
  if (::geteuid() != 0) {
    GTEST_SKIP() << "needs root: the script acts for users and makes devices";
  }
  ASSERT_TRUE(Comparison::Prepare());
  std::string base = (std::filesystem::temp_directory_path() / "wyvern-fsdiff-XXXXXX").string();
  ASSERT_NE(::mkdtemp(base.data()), nullptr);
  for (const uint64_t i : {14U, 15U}) {
    const std::string difference =
        Comparison(base, ServedByAProcess).Run(FirstSeed() + i, StepsOr(1000, 20'000));
    EXPECT_TRUE(difference.empty()) << difference;
  }
  std::filesystem::remove_all(base);
}

}  // namespace
}  // namespace wyvern::fs::differential
