// Who a file belongs to, and which privileges a write takes away.
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <sys/fsuid.h>
#include <sys/xattr.h>

#include <cerrno>
#include <thread>

#include "fs/testing/fs_test_base.h"

namespace wyvern::fs {
namespace {

using testing::Body;

class IdentityTest : public testing::FsTest {
 protected:
  void SetUp() override {
    if (!IsRoot()) {
      GTEST_SKIP() << "needs root";
    }
    FsTest::SetUp();
    ASSERT_EQ(::chmod(dir_.c_str(), 0777), 0);
    client_->uid = 1000;
    client_->gid = 1000;
  }

  void TearDown() override {
    if (server_ != nullptr) {
      // Nothing of the guest's identity may stay with the thread.
      EXPECT_EQ(::setfsuid(static_cast<uid_t>(-1)), 0);
      EXPECT_EQ(::setfsgid(static_cast<gid_t>(-1)), 0);
      FsTest::TearDown();
    }
  }
};

TEST_F(IdentityTest, WhatIsMadeBelongsToTheCaller) {
  client_->Create(FUSE_ROOT_ID, "file", O_RDWR, 0644);
  client_->Mkdir(FUSE_ROOT_ID, "dir");
  client_->Call(FUSE_SYMLINK, 1, Body().Name("link").Name("t"));
  fuse_mknod_in fifo{};
  fifo.mode = S_IFIFO | 0644;
  client_->Call(FUSE_MKNOD, 1, Body().Put(fifo).Name("fifo"));
  for (const char* name : {"file", "dir", "link", "fifo"}) {
    EXPECT_EQ(Stat(name).st_uid, 1000U) << name;
    EXPECT_EQ(Stat(name).st_gid, 1000U) << name;
  }
}

TEST_F(IdentityTest, PrivilegedUserInTheGuestMayCreateAnywhere) {
  ASSERT_EQ(::mkdir(Host("roots").c_str(), 0700), 0);
  const uint64_t node = client_->Lookup(FUSE_ROOT_ID, "roots");
  EXPECT_NE(client_->Create(node, "f", O_RDWR, 0644), 0U);
  EXPECT_EQ(Stat("roots/f").st_uid, 1000U);
}

// FUSE_ALLOW_IDMAP: only requests that make something have a user.
TEST_F(IdentityTest, RequestsOfNobodyAreServed) {
  Put("a", "content", 0600);
  client_->uid = ~0U;
  client_->gid = ~0U;
  const uint64_t node = client_->Lookup(FUSE_ROOT_ID, "a");
  const uint64_t fh = client_->Open(node, O_RDWR);
  EXPECT_EQ(client_->Read(node, fh, 0, 100), "content");
  EXPECT_EQ(client_->Write(node, fh, 0, "C"), 1U);
  EXPECT_EQ(client_->GetAttr(node).size, 7U);
  fuse_link_in link{};
  link.oldnodeid = node;
  EXPECT_EQ(client_->Call(FUSE_LINK, 1, Body().Put(link).Name("b")).error, 0);
  EXPECT_EQ(client_->Unlink(FUSE_ROOT_ID, "b"), 0);
}

TEST_F(IdentityTest, InvalidIdsAreRefused) {
  client_->uid = ~0U;
  client_->Create(FUSE_ROOT_ID, "file", O_RDWR, 0644);
  EXPECT_EQ(client_->error(), EINVAL);
}

// CVE-2022-0358: a user creates a set-group-ID executable in a set-group-ID directory of a group
// that is not his.
TEST_F(IdentityTest, Cve20220358SetGroupIdOfAForeignGroupIsDropped) {
  ASSERT_EQ(::mkdir(Host("sgid").c_str(), 0777), 0);
  ASSERT_EQ(::chown(Host("sgid").c_str(), 0, 50), 0);
  ASSERT_EQ(::chmod(Host("sgid").c_str(), 02777), 0);
  const uint64_t node = client_->Lookup(FUSE_ROOT_ID, "sgid");
  client_->Create(node, "f", O_RDWR, 02755);
  EXPECT_EQ(Stat("sgid/f").st_gid, 50U);
  EXPECT_EQ(Stat("sgid/f").st_mode & 07777U, 0755U);
  client_->Mkdir(node, "d");
  EXPECT_EQ(Stat("sgid/d").st_mode & 07777U, 02755U);
}

TEST_F(IdentityTest, SupplementaryGroupOfTheDirectoryKeepsSetGroupId) {
  ASSERT_EQ(::mkdir(Host("sgid").c_str(), 0777), 0);
  ASSERT_EQ(::chown(Host("sgid").c_str(), 0, 50), 0);
  ASSERT_EQ(::chmod(Host("sgid").c_str(), 02777), 0);
  const uint64_t node = client_->Lookup(FUSE_ROOT_ID, "sgid");
  fuse_create_in in{};
  in.flags = O_RDWR | O_CREAT;
  in.mode = 02755;
  // fuse_ext_header{16, FUSE_EXT_GROUPS}, nr_groups 1, group 50
  client_->extension_words = 2;
  const Body body = Body()
                        .Put(in)
                        .Name("f")
                        .Put(uint32_t{16})
                        .Put(uint32_t{32})
                        .Put(uint32_t{1})
                        .Put(uint32_t{50});
  EXPECT_EQ(client_->Call(FUSE_CREATE, node, body).error, 0);
  EXPECT_EQ(Stat("sgid/f").st_mode & 07777U, 02755U);
  EXPECT_EQ(::getgroups(0, nullptr), 0);
}

TEST_F(IdentityTest, BrokenGroupsAreInvalid) {
  client_->extension_words = 2;
  fuse_create_in in{};
  in.flags = O_RDWR | O_CREAT;
  const auto body = [&](uint32_t size, uint32_t count) {
    return Body().Put(in).Name("f").Put(size).Put(uint32_t{32}).Put(count).Put(uint32_t{0});
  };
  EXPECT_EQ(client_->Call(FUSE_CREATE, 1, body(0, 1)).error, EINVAL);
  EXPECT_EQ(client_->Call(FUSE_CREATE, 1, body(24, 1)).error, EINVAL);
  EXPECT_EQ(client_->Call(FUSE_CREATE, 1, body(16, 0x10000000)).error, EINVAL);
  EXPECT_EQ(client_->Call(FUSE_CREATE, 1, body(8, 1)).error, EINVAL);
}

TEST_F(IdentityTest, WriteOfAUserClearsSetUserId) {
  Put("suid", "x", 06755);
  const uint64_t node = client_->Lookup(FUSE_ROOT_ID, "suid");
  const uint64_t fh = client_->Open(node, O_RDWR);
  EXPECT_EQ(client_->Write(node, fh, 0, "y"), 1U);
  EXPECT_EQ(Stat("suid").st_mode & 07777U, 06755U);  // a privileged writer in the guest
  EXPECT_EQ(client_->Write(node, fh, 0, "y", 0, FUSE_WRITE_KILL_SUIDGID), 1U);
  EXPECT_EQ(Stat("suid").st_mode & 07777U, 0755U);
}

TEST_F(IdentityTest, TruncationOfAUserClearsSetUserId) {
  Put("suid", "x", 06755);
  const uint64_t node = client_->Lookup(FUSE_ROOT_ID, "suid");
  fuse_setattr_in in{};
  in.valid = FATTR_SIZE | FATTR_KILL_SUIDGID;
  EXPECT_EQ(client_->Call(FUSE_SETATTR, node, Body().Put(in)).error, 0);
  EXPECT_EQ(Stat("suid").st_mode & 07777U, 0755U);
  Put("suid2", "x", 06755);
  fuse_open_in open{};
  open.flags = O_WRONLY | O_TRUNC;
  open.open_flags = FUSE_OPEN_KILL_SUIDGID;
  const uint64_t other = client_->Lookup(FUSE_ROOT_ID, "suid2");
  EXPECT_EQ(client_->Call(FUSE_OPEN, other, Body().Put(open)).error, 0);
  EXPECT_EQ(Stat("suid2").st_mode & 07777U, 0755U);
}

// CVE-2021-20263: file capabilities must not survive a write.
TEST_F(IdentityTest, Cve202120263WriteClearsFileCapabilities) {
  Put("caps", "x", 0755);

  struct vfs_cap_data caps {};

  caps.magic_etc = VFS_CAP_REVISION_2 | VFS_CAP_FLAGS_EFFECTIVE;
  caps.data[0].permitted = 1U << CAP_NET_RAW;
  if (::setxattr(Host("caps").c_str(), "security.capability", &caps, XATTR_CAPS_SZ_2, 0) != 0) {
    GTEST_SKIP() << "no security.capability here";
  }
  const uint64_t node = client_->Lookup(FUSE_ROOT_ID, "caps");
  const uint64_t fh = client_->Open(node, O_WRONLY);
  EXPECT_EQ(client_->Write(node, fh, 0, "y"), 1U);
  EXPECT_EQ(::getxattr(Host("caps").c_str(), "security.capability", nullptr, 0), -1);
  EXPECT_EQ(errno, ENODATA);
}

TEST_F(IdentityTest, AccessFollowsTheModeBits) {
  Put("a", "x", 0640);
  ASSERT_EQ(::chown(Host("a").c_str(), 1000, 2000), 0);
  const uint64_t node = client_->Lookup(FUSE_ROOT_ID, "a");
  const auto access = [&](uint32_t mask) {
    fuse_access_in in{};
    in.mask = mask;
    return client_->Call(FUSE_ACCESS, node, Body().Put(in)).error;
  };
  EXPECT_EQ(access(R_OK | W_OK), 0);
  EXPECT_EQ(access(X_OK), EACCES);
  client_->uid = 1;
  EXPECT_EQ(access(R_OK), EACCES);
  client_->gid = 2000;
  EXPECT_EQ(access(R_OK), 0);
  client_->uid = 0;
  EXPECT_EQ(access(W_OK), 0);
  EXPECT_EQ(access(X_OK), EACCES);
}

}  // namespace
}  // namespace wyvern::fs
