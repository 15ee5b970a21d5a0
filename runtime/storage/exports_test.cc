#include "storage/exports.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

#include "base/unix_socket.h"
#include "storage/rootfs.h"
#include "storage/testing/private_mounts.h"

namespace wyvern::runtime {
namespace {

// Stands for wyvern-fs: a process in a mount namespace whose root is an empty tmpfs.
class ExportsTest : public PrivateMountsTest {
 protected:
  void SetUp() override {
    PrivateMountsTest::SetUp();
    if (dir_.empty()) {
      return;
    }
    const std::string jail = MakeDir("jail");
    auto pair = MakeSocketPair(SOCK_STREAM);
    ASSERT_TRUE(pair.has_value());
    server_ = fork();
    if (server_ == 0) {
      pair->first.Reset();
      char byte = 0;
      const bool ok = unshare(CLONE_NEWNS) == 0 &&
                      mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
                      mount("tmpfs", jail.c_str(), "tmpfs", 0, nullptr) == 0 &&
                      chdir(jail.c_str()) == 0 && syscall(SYS_pivot_root, ".", ".") == 0 &&
                      umount2(".", MNT_DETACH) == 0 && write(pair->second.get(), "k", 1) == 1;
      _exit(ok && read(pair->second.get(), &byte, 1) == 0 ? 0 : 1);
    }
    pair->second.Reset();
    life_ = std::move(pair->first);
    std::byte ready{};
    ASSERT_TRUE(ReadExact(life_, {&ready, 1}).has_value());
    auto ns = Open("/proc/" + std::to_string(server_) + "/ns/mnt", O_RDONLY);
    ASSERT_TRUE(ns.has_value());
    ns_ = std::move(*ns);
  }

  void TearDown() override {
    life_.Reset();
    if (server_ > 0) {
      waitpid(server_, nullptr, 0);
    }
    ns_.Reset();
    PrivateMountsTest::TearDown();
  }

  std::string InServer(const std::string& path) const {
    return "/proc/" + std::to_string(server_) + "/root" + path;
  }

  Result<> Attach(const std::string& source, const TreeOptions& options, const std::string& name) {
    WV_TRY(const UniqueFd tree, CloneTree(source, options));
    return AttachTree(ns_, tree, name);
  }

  pid_t server_ = -1;
  UniqueFd life_;
  UniqueFd ns_;
};

TEST_F(ExportsTest, MissingSourceIsNamed) {
  auto tree = CloneTree(dir_ + "/absent", {});
  ASSERT_FALSE(tree.has_value());
  EXPECT_EQ(tree.error().code(), Code::kNotFound);
  EXPECT_THAT(tree.error().message(), testing::HasSubstr(dir_ + "/absent"));
}

TEST_F(ExportsTest, NamesCannotLeaveTheShare) {
  const std::string source = MakeDir("source");
  EXPECT_FALSE(Attach(source, {}, "../x").has_value());
  EXPECT_FALSE(Attach(source, {}, "").has_value());
  EXPECT_FALSE(DetachTree(ns_, "..").has_value());
}

TEST_F(ExportsTest, DirectoryAppearsAndGoes) {
  const std::string source = MakeDir("source");
  MakeFile("source/f", "text");
  auto attached = Attach(source, {}, "c0-root");
  ASSERT_TRUE(attached.has_value()) << attached.error().message();
  EXPECT_EQ(*ReadFile(InServer("/c0-root/f")), "text");
  EXPECT_TRUE(DetachTree(ns_, "c0-root").has_value());
  EXPECT_TRUE(DetachTree(ns_, "c0-root").has_value());
  EXPECT_NE(access(InServer("/c0-root").c_str(), F_OK), 0);
}

TEST_F(ExportsTest, SingleFile) {
  const std::string source = MakeFile("hosts", "h");
  ASSERT_TRUE(Attach(source, {}, "c0-v0").has_value());
  EXPECT_EQ(*ReadFile(InServer("/c0-v0")), "h");
  EXPECT_TRUE(DetachTree(ns_, "c0-v0").has_value());
}

TEST_F(ExportsTest, SubmountsOnlyWhenRecursive) {
  const std::string source = MakeDir("source");
  MakeDir("source/sub");
  ASSERT_EQ(mount("tmpfs", (source + "/sub").c_str(), "tmpfs", 0, nullptr), 0);
  MakeFile("source/sub/f", "s");
  ASSERT_TRUE(Attach(source, {.recursive = true}, "deep").has_value());
  ASSERT_TRUE(Attach(source, {}, "flat").has_value());
  EXPECT_TRUE(ReadFile(InServer("/deep/sub/f")).has_value());
  EXPECT_FALSE(ReadFile(InServer("/flat/sub/f")).has_value());
}

TEST_F(ExportsTest, ReadOnlyHoldsForSubmountsToo) {
  const std::string source = MakeDir("source");
  MakeDir("source/sub");
  ASSERT_EQ(mount("tmpfs", (source + "/sub").c_str(), "tmpfs", 0, nullptr), 0);
  ASSERT_TRUE(Attach(source, {.recursive = true, .read_only = true}, "ro").has_value());
  EXPECT_FALSE(WriteFile(InServer("/ro/a"), "x").has_value());
  EXPECT_FALSE(WriteFile(InServer("/ro/sub/a"), "x").has_value());
  EXPECT_TRUE(WriteFile(source + "/sub/a", "x").has_value());
}

TEST_F(ExportsTest, DevicesInATreeForTheGuestCannotBeOpened) {
  const std::string source = MakeDir("source");
  MakeDir("source/sub");
  ASSERT_EQ(mount("tmpfs", (source + "/sub").c_str(), "tmpfs", 0, nullptr), 0);
  MakeFile("source/sub/f", "s");
  const dev_t null = makedev(1, 3);
  for (const std::string& path : {source + "/null", source + "/sub/null"}) {
    if (mknod(path.c_str(), S_IFCHR | 0600, null) != 0 || !Open(path, O_RDONLY).has_value()) {
      GTEST_SKIP() << "no device nodes here";
    }
  }
  const auto tree = CloneTree(source, {.recursive = true, .for_guest = true});
  ASSERT_TRUE(tree.has_value()) << tree.error().message();
  for (const char* name : {"null", "sub/null"}) {
    const auto opened = OpenAt(*tree, name, O_RDONLY);
    ASSERT_FALSE(opened.has_value()) << name;
    EXPECT_EQ(opened.error().sys_errno(), EACCES) << name;
    EXPECT_TRUE(OpenAt(*tree, name, O_PATH).has_value()) << name;
  }
  EXPECT_TRUE(OpenAt(*tree, "sub/f", O_RDWR).has_value());
  struct statvfs info = {};
  ASSERT_EQ(fstatvfs(OpenAt(*tree, "sub", O_RDONLY)->get(), &info), 0);
  EXPECT_EQ(info.f_flag & (ST_NOSUID | ST_NOEXEC | ST_RDONLY), ST_NOSUID | ST_NOEXEC);
  // The host's own mounts, and a tree for others, stay as they are.
  EXPECT_TRUE(Open(source + "/sub/null", O_RDONLY).has_value());
  const auto other = CloneTree(source, {.recursive = true});
  ASSERT_TRUE(other.has_value());
  EXPECT_TRUE(OpenAt(*other, "sub/null", O_RDONLY).has_value());
}

TEST_F(ExportsTest, LaterHostMountsAppearOnlyWhenFollowed) {
  const std::string source = MakeDir("source");
  MakeDir("source/sub");
  ASSERT_EQ(mount(source.c_str(), source.c_str(), nullptr, MS_BIND, nullptr), 0);
  ASSERT_EQ(mount("none", source.c_str(), nullptr, MS_SHARED, nullptr), 0);
  ASSERT_TRUE(Attach(source, {.recursive = true, .follow_host_mounts = true}, "live").has_value());
  ASSERT_TRUE(Attach(source, {.recursive = true}, "still").has_value());
  ASSERT_EQ(mount("tmpfs", (source + "/sub").c_str(), "tmpfs", 0, nullptr), 0);
  MakeFile("source/sub/late", "l");
  EXPECT_TRUE(ReadFile(InServer("/live/sub/late")).has_value());
  EXPECT_FALSE(ReadFile(InServer("/still/sub/late")).has_value());
}

TEST_F(ExportsTest, DetachedTreeKeepsNoDeviceBusy) {
  const std::string source = MakeDir("source");
  ASSERT_EQ(mount("tmpfs", source.c_str(), "tmpfs", 0, nullptr), 0);
  ASSERT_TRUE(Attach(source, {}, "vol").has_value());
  ASSERT_TRUE(DetachTree(ns_, "vol").has_value());
  EXPECT_EQ(umount2(source.c_str(), 0), 0);
}

TEST_F(ExportsTest, IdsOfACloneAreMapped) {
  MakeDir("volume");
  MakeFile("volume/f", "x");
  TreeOptions options;
  options.ids = {{{0, 100000, 65536}}, {{0, 100000, 65536}}};
  const auto tree = CloneTree(dir_ + "/volume", options);
  if (!tree.has_value() && tree.error().code() == Code::kFailedPrecondition) {
    GTEST_SKIP() << tree.error().message();
  }
  ASSERT_TRUE(tree.has_value()) << tree.error().message();
  struct stat info = {};
  ASSERT_EQ(fstatat(tree->get(), "f", &info, 0), 0);
  EXPECT_EQ(info.st_uid, 100000U);
  ASSERT_EQ(fchownat(tree->get(), "f", 100005, 100006, 0), 0);
  ASSERT_EQ(stat((dir_ + "/volume/f").c_str(), &info), 0);
  EXPECT_EQ(info.st_uid, 5U);
  EXPECT_EQ(info.st_gid, 6U);
  EXPECT_NE(fchownat(tree->get(), "f", 0, 0, 0), 0) << "root is nobody there";
}

TEST_F(ExportsTest, FileSystemThatCannotMapIdsIsNamed) {
  TreeOptions options;
  options.ids = {{{0, 100000, 65536}}, {{0, 100000, 65536}}};
  const auto tree = CloneTree("/proc", options);
  ASSERT_FALSE(tree.has_value());
  EXPECT_EQ(tree.error().code(), Code::kFailedPrecondition);
  EXPECT_THAT(tree.error().message(), testing::HasSubstr("/proc: its ids cannot be mapped"));
}

}  // namespace
}  // namespace wyvern::runtime
