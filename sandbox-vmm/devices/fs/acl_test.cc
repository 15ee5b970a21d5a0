// POSIX ACLs of a session that has them: the umask and default ACLs, and set-group-ID.
#include <gtest/gtest.h>
#include <linux/posix_acl.h>
#include <linux/posix_acl_xattr.h>
#include <sys/xattr.h>

#include <cerrno>

#include "fs/testing/fs_test_base.h"

namespace wyvern::fs {
namespace {

using testing::Body;

constexpr const char* kAccess = "system.posix_acl_access";
constexpr const char* kDefault = "system.posix_acl_default";

// u::rwx,u:1000:rwx,g::r-x,m::rwx,o::---
std::string SampleAcl() {
  struct Entry {
    uint16_t tag;
    uint16_t permissions;
    uint32_t id;
  };

  constexpr auto kNone = static_cast<uint32_t>(ACL_UNDEFINED_ID);
  const Entry entries[] = {{ACL_USER_OBJ, 7, kNone},
                           {ACL_USER, 7, 1000},
                           {ACL_GROUP_OBJ, 5, kNone},
                           {ACL_MASK, 7, kNone},
                           {ACL_OTHER, 0, kNone}};
  const uint32_t version = POSIX_ACL_XATTR_VERSION;
  return std::string(reinterpret_cast<const char*>(&version), sizeof(version)) +
         std::string(reinterpret_cast<const char*>(entries), sizeof(entries));
}

class AclTest : public testing::FsTest {
 protected:
  void SetUp() override {
    if (!IsRoot()) {
      GTEST_SKIP() << "needs root";
    }
    FsTest::SetUp();
    const std::string acl = SampleAcl();
    if (::setxattr(dir_.c_str(), kDefault, acl.data(), acl.size(), 0) != 0) {
      GTEST_SKIP() << "the file system under the temporary directory has no ACLs";
    }
    ASSERT_EQ(::removexattr(dir_.c_str(), kDefault), 0);
    FileServerOptions options;
    options.features.posix_acl = true;
    Serve(std::move(options));
  }

  int SetXattr(uint64_t node, const char* name, const std::string& value, uint32_t flags) {
    fuse_setxattr_in in{};
    in.size = static_cast<uint32_t>(value.size());
    in.setxattr_flags = flags;
    return client_->Call(FUSE_SETXATTR, node, Body().Put(in).Name(name).Raw(value)).error;
  }

  // Makes one of each with mode 0666 or 0777 and umask 022.
  void MakeThree(const std::string& suffix) {
    fuse_create_in create{};
    create.flags = O_RDWR | O_CREAT;
    create.mode = S_IFREG | 0666;
    create.umask = 022;
    EXPECT_EQ(client_->Call(FUSE_CREATE, 1, Body().Put(create).Name("f" + suffix)).error, 0);
    fuse_mkdir_in directory{};
    directory.mode = 0777;
    directory.umask = 022;
    EXPECT_EQ(client_->Call(FUSE_MKDIR, 1, Body().Put(directory).Name("d" + suffix)).error, 0);
    fuse_mknod_in fifo{};
    fifo.mode = S_IFIFO | 0666;
    fifo.umask = 022;
    EXPECT_EQ(client_->Call(FUSE_MKNOD, 1, Body().Put(fifo).Name("p" + suffix)).error, 0);
  }

  uint32_t ModeOf(const std::string& name) const { return Stat(name).st_mode & 07777U; }
};

TEST_F(AclTest, OfferedWholeOrNotAtAll) {
  constexpr uint64_t kAll = FUSE_POSIX_ACL | FUSE_DONT_MASK | FUSE_SETXATTR_EXT;
  const auto offered = [&](uint64_t wanted) {
    return client_->Init(wanted).As<fuse_init_out>().flags & kAll;
  };
  EXPECT_EQ(offered(~uint64_t{0}), kAll);
  EXPECT_EQ(offered(kAll & ~uint64_t{FUSE_SETXATTR_EXT}), 0U);
  EXPECT_EQ(offered(kAll & ~uint64_t{FUSE_DONT_MASK}), 0U);
  Serve();
  EXPECT_EQ(offered(~uint64_t{0}), 0U);
}

TEST_F(AclTest, UmaskIsOursWithoutADefaultAcl) {
  MakeThree("1");
  EXPECT_EQ(ModeOf("f1"), 0644U);
  EXPECT_EQ(ModeOf("d1"), 0755U);
  EXPECT_EQ(ModeOf("p1"), 0644U);
}

TEST_F(AclTest, DefaultAclTakesThePlaceOfTheUmask) {
  EXPECT_EQ(SetXattr(FUSE_ROOT_ID, kDefault, SampleAcl(), 0), 0);
  MakeThree("2");
  EXPECT_EQ(ModeOf("f2"), 0660U);
  EXPECT_EQ(ModeOf("d2"), 0770U);
  EXPECT_EQ(ModeOf("p2"), 0660U);
  EXPECT_GT(::getxattr(Host("d2").c_str(), kDefault, nullptr, 0), 0);
}

TEST_F(AclTest, WithoutTheSessionsAclsTheUmaskIsTheGuests) {
  Serve();
  MakeThree("3");
  EXPECT_EQ(ModeOf("f3"), 0666U);
  EXPECT_EQ(ModeOf("d3"), 0777U);
}

TEST_F(AclTest, AclOfAStrangerTakesSetGroupIdAway) {
  for (const gid_t group : {0U, 50U}) {
    Put("x", "x", 0755);
    ASSERT_EQ(::chown(Host("x").c_str(), 0, group), 0);
    ASSERT_EQ(::chmod(Host("x").c_str(), 02755), 0);
    const uint64_t node = client_->Lookup(FUSE_ROOT_ID, "x");
    EXPECT_EQ(SetXattr(node, kAccess, SampleAcl(), 0), 0);
    EXPECT_EQ(ModeOf("x"), 02770U);
    EXPECT_EQ(SetXattr(node, kAccess, SampleAcl(), FUSE_SETXATTR_ACL_KILL_SGID), 0);
    EXPECT_EQ(ModeOf("x"), 0770U);
  }
}

TEST_F(AclTest, ShortArgumentsAreInvalid) {
  Put("x", "x");
  const uint64_t node = client_->Lookup(FUSE_ROOT_ID, "x");
  EXPECT_EQ(client_->Call(FUSE_SETXATTR, node, Body().Raw(std::string(8, '\0'))).error, EINVAL);
  EXPECT_NE(SetXattr(node, kAccess, "no ACL", 0), 0);
}

}  // namespace
}  // namespace wyvern::fs
