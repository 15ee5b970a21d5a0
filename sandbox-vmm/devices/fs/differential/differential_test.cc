// One script through the rings of an FsDevice and on a directory beside the shared one.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/posix_acl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>
#include <numeric>

#include "base/fd.h"
#include "fs/differential/acl.h"
#include "fs/differential/comparison.h"
#include "fs/differential/fuse_target.h"
#include "fs/differential/host_target.h"
#include "fs/differential/ring_carrier.h"
#include "fs/fs_device.h"

namespace wyvern::fs::differential {
namespace {

UniqueFd OpenDirectory(const std::string& path) {
  return *Open(path, O_RDONLY | O_DIRECTORY);
}

std::unique_ptr<FileServer> MakeServer(const std::string& directory, bool acls) {
  FileServerOptions options;
  options.root = OpenDirectory(directory);
  options.features.posix_locks = true;
  options.features.flock_locks = true;
  options.features.posix_acl = acls;
  options.inodes.resident = 16;  // most inodes are opened again by their names
  return *FileServer::Create(std::move(options));
}

// In this order: the last goes first.
struct Device {
  std::unique_ptr<FileServer> server;
  std::unique_ptr<FsDevice> device;
  std::shared_ptr<RingCarrier> carrier;
};

// A fake driver, the rings, the device with its threads, the server.
MakeSubject ThroughRings(uint64_t ring_features) {
  return [ring_features](const std::string& directory) {
    auto made = std::make_shared<Device>();
    made->server = MakeServer(directory, true);
    made->device = *FsDevice::Create(*made->server, {.tag = "share", .threads = 2});
    made->carrier = *RingCarrier::Create(*made->device, ring_features);
    auto target = std::make_unique<FuseTarget>(
        [carrier = made->carrier](auto request, auto out) { return carrier->Carry(request, out); });
    EXPECT_TRUE(target->acls());
    return Subject{std::move(made), std::move(target), {}};
  };
}

// No ring; a session whose guest has no ACLs, and asks for none.
Subject WithoutRings(const std::string& directory) {
  std::shared_ptr<FileServer> server = MakeServer(directory, false);
  auto scratch = std::make_shared<Scratch>();
  auto target = std::make_unique<FuseTarget>([server, scratch](auto request, auto out) {
    return server->Handle(request, out, scratch.get());
  });
  EXPECT_FALSE(target->acls());
  return {std::move(server), std::move(target), {.acls = false}};
}

class DifferentialTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) {
      GTEST_SKIP() << "needs root: the script acts for users and makes devices";
    }
    ASSERT_TRUE(Comparison::Prepare());
  }

  void TearDown() override {
    std::error_code ignored;
    std::filesystem::remove_all(base_, ignored);
  }

  void UseDirectory(const std::string& parent) {
    std::string pattern = parent + "/wyvern-fsdiff-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    base_ = pattern;
  }

  // WYVERN_FSDIFF_DIR: another file system.
  void UseTemporaryDirectory() {
    const char* parent =
        std::getenv("WYVERN_FSDIFF_DIR");  // NOLINT(concurrency-mt-unsafe): read only
    UseDirectory(parent == nullptr ? std::filesystem::temp_directory_path().string() : parent);
  }

  // Seeds of both kinds, each once with split rings and once with packed ones.
  void RunThroughRings(uint64_t first, uint64_t seeds, uint64_t steps) {
    for (uint64_t i = 0; i < seeds; ++i) {
      const uint64_t format = i / 2 % 2 == 0 ? 0 : virtio::kRingPacked;
      Comparison comparison(
          base_, ThroughRings(format | virtio::kRingEventIdx | virtio::kRingIndirectDesc));
      const std::string difference = comparison.Run(first + i, steps);
      EXPECT_TRUE(difference.empty()) << difference;
    }
  }

  std::string base_;
};

// WYVERN_LONG=1: 1 000 000 steps in both.
TEST_F(DifferentialTest, DeviceBehavesLikeTheDirectory) {
  ASSERT_NO_FATAL_FAILURE(UseTemporaryDirectory());
  RunThroughRings(FirstSeed(), 4, StepsOr(750, 50'000));
}

TEST_F(DifferentialTest, DeviceBehavesLikeATmpfs) {
  if (::access("/dev/shm", W_OK) != 0) {
    GTEST_SKIP() << "no /dev/shm here";
  }
  ASSERT_NO_FATAL_FAILURE(UseDirectory("/dev/shm"));
  RunThroughRings(FirstSeed() + 4, IsLong() ? 8 : 4, StepsOr(1000, 100'000));
}

TEST_F(DifferentialTest, SessionWithoutAclsBehavesLikeTheDirectory) {
  ASSERT_NO_FATAL_FAILURE(UseTemporaryDirectory());
  for (const uint64_t i : {0U, 1U}) {
    const std::string difference =
        Comparison(base_, WithoutRings).Run(FirstSeed() + 12 + i, StepsOr(1500, 10'000));
    EXPECT_TRUE(difference.empty()) << difference;
  }
}

// Of the names together: every byte but NUL and the slash.
TEST(ScriptTest, NamesHaveEveryByte) {
  std::array<bool, 256> seen{};
  for (uint64_t i = 0; i < 20'000; ++i) {
    for (const std::string& name : MakeStep(1, i).path) {
      ASSERT_EQ(name.find('\0'), std::string::npos);
      ASSERT_EQ(name.find('/'), std::string::npos);
      for (const char c : name) {
        seen[static_cast<unsigned char>(c)] = true;
      }
    }
  }
  EXPECT_EQ(std::ranges::count(seen, true), 254);
}

TEST(ScriptTest, PrefixIsAScript) {
  const auto whole = MakeScript(7, 50);
  for (uint64_t i = 0; i < whole.size(); ++i) {
    EXPECT_EQ(Describe(whole[i]), Describe(MakeStep(7, i)));
  }
}

// A target with a fault that only a certain order of steps shows.
class ForgetfulTarget final : public HostTarget {
 public:
  using HostTarget::HostTarget;

  int ChangeMode(const NodeRef& node, uint32_t mode) override {
    return HostTarget::ChangeMode(node, node->type == S_IFDIR ? mode : mode & 0777U);
  }
};

TEST_F(DifferentialTest, FaultIsFoundAndTheScriptMadeShort) {
  ASSERT_NO_FATAL_FAILURE(UseDirectory(std::filesystem::temp_directory_path().string()));
  Comparison comparison(base_, [](const std::string& directory) {
    return Subject{nullptr, std::make_unique<ForgetfulTarget>(OpenDirectory(directory)), {}};
  });
  Script script(2000);
  std::iota(script.begin(), script.end(), 0);
  const auto difference = comparison.Compare(1, script);
  ASSERT_TRUE(difference.has_value());
  script.resize(std::min(script.size(), difference.value_or(Difference{}).position + 1));
  EXPECT_LE(comparison.Shrink(1, script, std::chrono::seconds(30)).size(), 6U);
}

TEST(ScriptTest, SeedsMapOrAskForHoles) {
  for (uint64_t i = 0; i < 2000; ++i) {
    ASSERT_NE(MakeStep(1, i).op, Op::kSeek);
    ASSERT_NE(MakeStep(2, i).op, Op::kMap);
  }
}

TEST_F(DifferentialTest, PageBehindTheEndOfAMappingIsTold) {
  ASSERT_NO_FATAL_FAILURE(UseTemporaryDirectory());
  HostTarget host(OpenDirectory(base_));
  Step step;
  step.flags = O_RDWR | O_CREAT;
  step.mode = 0600;
  FileRef file;
  ASSERT_EQ(host.Open(host.Root(), "f", nullptr, step, &file), 0);
  size_t bytes = 0;
  ASSERT_EQ(file->Write(0, std::string(5000, 'x'), &bytes), 0);
  MappingRef mapping;
  ASSERT_EQ(file->Map({.shared = true, .writable = true, .offset = 0, .length = 12'288}, &mapping),
            0);
  std::string seen;
  EXPECT_EQ(mapping->Look(&seen), 0);
  EXPECT_EQ(seen, std::string(5000, 'x') + std::string(3192, '\0'));
  EXPECT_EQ(mapping->Store(4000, std::string(5000, 'y'), &bytes), 0);
  EXPECT_EQ(bytes, 4192U);
  ASSERT_EQ(file->Truncate(4096), 0);
  EXPECT_EQ(mapping->Look(&seen), 0);
  EXPECT_EQ(seen.size(), 4096U);
}

// The last page of a file is written back up to the file's end, which O_DIRECT would not take.
TEST_F(DifferentialTest, MappingOfADirectFileIsWrittenBack) {
  ASSERT_NO_FATAL_FAILURE(UseTemporaryDirectory());
  const Subject subject = ThroughRings(0)(base_);
  Step step;
  step.flags = O_RDWR | O_CREAT | O_DIRECT;
  step.mode = 0600;
  FileRef file;
  if (subject.target->Open(subject.target->Root(), "f", nullptr, step, &file) != 0) {
    GTEST_SKIP() << "the file system under the temporary directory has no O_DIRECT";
  }
  ASSERT_EQ(file->Truncate(5000), 0);
  MappingRef mapping;
  ASSERT_EQ(file->Map({.shared = true, .writable = true, .offset = 0, .length = 8192}, &mapping),
            0);
  size_t stored = 0;
  EXPECT_EQ(mapping->Store(4000, std::string(1000, 'y'), &stored), 0);
  EXPECT_EQ(stored, 1000U);
  EXPECT_TRUE(ReadFile(base_ + "/f")->ends_with(std::string(1000, 'y')));
}

// acl(5), "access check algorithm".
TEST(AclTest, FirstEntryThatIsMeantDecides) {
  struct Entry {
    uint16_t tag;
    uint16_t permissions;
    uint32_t id;
  };

  constexpr uint32_t kNone = ~0U;
  const Entry entries[] = {{ACL_USER_OBJ, 7, kNone},  {ACL_USER, 7, 1000},
                           {ACL_GROUP_OBJ, 4, kNone}, {ACL_GROUP, 2, 50},
                           {ACL_MASK, 3, kNone},      {ACL_OTHER, 7, kNone}};
  const std::string acl = std::string("\2\0\0\0", 4) +
                          std::string(reinterpret_cast<const char*>(entries), sizeof(entries));
  EXPECT_TRUE(AclPermits(acl, 0, {1000, 1000}, 3));   // the mask leaves so much of 7
  EXPECT_FALSE(AclPermits(acl, 0, {1000, 1000}, 4));  // and no more
  EXPECT_TRUE(AclPermits(acl, 0, {2000, 50}, 2));
  EXPECT_FALSE(AclPermits(acl, 0, {2000, 50}, 1));  // of a group: others' bits do not count
  EXPECT_FALSE(AclPermits(acl, 1000, {2000, 1000}, 4));
  EXPECT_TRUE(AclPermits(acl, 0, {2000, 1000}, 7));
}

}  // namespace
}  // namespace wyvern::fs::differential
