#include "user/user.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <filesystem>

#include "base/fd.h"

namespace wyvern::runtime {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::SizeIs;

const UserFiles& Files() {
  static const UserFiles files = {
      "\nroot:x:0:0:root:/root:/bin/sh\nweb:x:33:44::/:/bin/sh\nodd:x:n:44::/:/bin/sh\nshort:x:9\n"
      "7:x:70:70::/:/bin/sh\nhigh:x:4294967295:1::/:\nlast:x:8:80",
      "root:x:0:\nlog:x:5:daemon,web\nbad:x:n:web\nadm:x:4:web,root\nagain:x:5:web\nown:x:44:web\n"
      "near:x:6:webadmin\n"};
  return files;
}

UserIds IdsOf(const std::string& user) {
  auto ids = FindUser(Files(), user);
  EXPECT_TRUE(ids.has_value()) << user << ": " << ids.error().message();
  return ids.has_value() ? *std::move(ids) : UserIds{};
}

Code CodeOf(const std::string& user) {
  const auto ids = FindUser(Files(), user);
  return ids.has_value() ? Code::kOk : ids.error().code();
}

TEST(UserTest, NamesHaveTheirGroups) {
  const UserIds web = IdsOf("web");
  EXPECT_EQ(web.uid, 33U);
  EXPECT_EQ(web.gid, 44U);
  EXPECT_THAT(web.groups, ElementsAre(44U, 5U, 4U));
  EXPECT_EQ(IdsOf("last").gid, 80U);
}

TEST(UserTest, NobodyNamedIsRoot) {
  const UserIds root = IdsOf("");
  EXPECT_EQ(root.uid, 0U);
  EXPECT_EQ(root.gid, 0U);
  EXPECT_THAT(root.groups, ElementsAre(0U, 4U));
  EXPECT_THAT(FindUser({}, "")->groups, ElementsAre(0U));
}

TEST(UserTest, NumbersAreIdsAndHaveTheGroupsOfTheirName) {
  EXPECT_THAT(IdsOf("33").groups, ElementsAre(44U, 5U, 4U));
  EXPECT_EQ(IdsOf("7").uid, 7U);  // not the user of that name
  const UserIds unknown = IdsOf("1000");
  EXPECT_EQ(unknown.uid, 1000U);
  EXPECT_EQ(unknown.gid, 0U);
  EXPECT_THAT(unknown.groups, ElementsAre(0U));
}

TEST(UserTest, GivenGroupIsTheOnlyOne) {
  for (const char* user : {"web:adm", "33:adm", "web:4"}) {
    EXPECT_EQ(IdsOf(user).uid, 33U) << user;
    EXPECT_EQ(IdsOf(user).gid, 4U) << user;
    EXPECT_THAT(IdsOf(user).groups, ElementsAre(4U)) << user;
  }
  EXPECT_EQ(IdsOf("1000:7").gid, 7U);
  EXPECT_EQ(IdsOf("web:").gid, 44U);
}

TEST(UserTest, WhatIsNoUserIsNamed) {
  EXPECT_EQ(CodeOf("absent"), Code::kNotFound);
  EXPECT_THAT(FindUser(Files(), "absent").error().message(), HasSubstr("no user \"absent\""));
  EXPECT_EQ(CodeOf("web:absent"), Code::kNotFound);
  EXPECT_EQ(CodeOf("-1"), Code::kNotFound);
  for (const char* user : {":", ":1", "1:2:3", "odd", "short", "high", "web:bad", "4294967295",
                           "99999999999", "1:4294967295"}) {
    EXPECT_EQ(CodeOf(user), Code::kInvalidArgument) << user;
  }
}

TEST(UserTest, MoreGroupsThanLinuxAllowsAreRefused) {
  UserFiles files = {"web:x:33:44::/:\n", ""};
  for (int id = 100; id < 100 + 65535; ++id) {
    files.group += "g:x:" + std::to_string(id) + ":web\n";
  }
  EXPECT_THAT(FindUser(files, "web")->groups, SizeIs(65536));
  files.group += "g:x:99:web\n";
  EXPECT_EQ(FindUser(files, "web").error().code(), Code::kResourceExhausted);
}

// What a container may have made of its /etc.
class UserFilesTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "wyvern-user-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
    fs::create_directories(root_ + "/root/etc");
    ASSERT_TRUE(WriteFile(root_ + "/outside", "outside").has_value());
  }

  void TearDown() override { fs::remove_all(root_); }

  std::string Passwd() const {
    const auto files = ReadUserFiles({root_ + "/root"});
    EXPECT_TRUE(files.has_value()) << files.error().message();
    return files.has_value() ? files->passwd : "failed";
  }

  std::string root_;
};

TEST_F(UserFilesTest, FilesAreRead) {
  ASSERT_TRUE(WriteFile(root_ + "/root/etc/passwd", "p").has_value());
  ASSERT_TRUE(WriteFile(root_ + "/root/etc/group", "g").has_value());
  const auto files = ReadUserFiles({root_ + "/root"});
  ASSERT_TRUE(files.has_value()) << files.error().message();
  EXPECT_EQ(files->passwd, "p");
  EXPECT_EQ(files->group, "g");
  EXPECT_FALSE(ReadUserFiles({root_ + "/absent"}).has_value());
}

TEST_F(UserFilesTest, LinksStayInTheRoot) {
  const std::string passwd = root_ + "/root/etc/passwd";
  ASSERT_TRUE(WriteFile(root_ + "/root/inside", "inside").has_value());
  for (const std::string& target :
       {root_ + "/outside", std::string("../../outside"),
        std::string("/proc/self/root") + root_ + "/outside", std::string("passwd")}) {
    fs::create_symlink(target, passwd);
    EXPECT_EQ(Passwd(), "") << target;
    fs::remove(passwd);
  }
  // As a chroot would have it.
  for (const char* target : {"/inside", "../../../../inside"}) {
    fs::create_symlink(target, passwd);
    EXPECT_EQ(Passwd(), "inside") << target;
    fs::remove(passwd);
  }
  fs::remove(root_ + "/root/etc");
  fs::create_symlink(root_, root_ + "/root/etc");
  EXPECT_EQ(Passwd(), "");
}

TEST_F(UserFilesTest, OnlyRegularFilesAreReadAndNothingBlocks) {
  const std::string passwd = root_ + "/root/etc/passwd";
  ASSERT_EQ(mkfifo(passwd.c_str(), 0600), 0);
  EXPECT_EQ(Passwd(), "");
  fs::remove(passwd);
  fs::create_directory(passwd);
  EXPECT_EQ(Passwd(), "");
}

TEST_F(UserFilesTest, UppermostRootWinsAndItsWhiteoutHides) {
  fs::create_directories(root_ + "/upper/etc");
  ASSERT_TRUE(WriteFile(root_ + "/root/etc/passwd", "lower").has_value());
  const std::vector<std::string> roots = {root_ + "/upper", root_ + "/root"};
  EXPECT_EQ(ReadUserFiles(roots)->passwd, "lower");
  const std::string upper = root_ + "/upper/etc/passwd";
  ASSERT_TRUE(WriteFile(upper, "upper").has_value());
  EXPECT_EQ(ReadUserFiles(roots)->passwd, "upper");
  fs::remove(upper);
  if (mknod(upper.c_str(), S_IFCHR, makedev(0, 0)) != 0) {
    GTEST_SKIP() << "no whiteouts here";
  }
  EXPECT_EQ(ReadUserFiles(roots)->passwd, "");
}

TEST_F(UserFilesTest, EndlessFileIsRefused) {
  const std::string passwd = root_ + "/root/etc/passwd";
  ASSERT_TRUE(WriteFile(passwd, "root:x:0:0::/:\n").has_value());
  fs::resize_file(passwd, uint64_t{1} << 30U);
  const auto files = ReadUserFiles({root_ + "/root"});
  ASSERT_FALSE(files.has_value());
  EXPECT_EQ(files.error().code(), Code::kResourceExhausted);
  EXPECT_THAT(files.error().message(), HasSubstr("/etc/passwd"));
}

}  // namespace
}  // namespace wyvern::runtime
