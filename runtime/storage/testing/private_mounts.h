// storage/testing/private_mounts.h — a test fixture with a mount namespace and a tmpfs of its own. Needs root: skips without.
#pragma once

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>

#include "base/fd.h"

namespace wyvern::runtime {

class PrivateMountsTest : public testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0) {
      GTEST_SKIP() << "mounting needs root";
    }
    // Once for the whole test program; it has one thread here.
    static const bool entered =
        unshare(CLONE_NEWNS) == 0 && mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0;
    if (!entered) {
      GTEST_SKIP() << "no private mount namespace here";
    }
    char name[] = "/tmp/wyvern-mounts-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    dir_ = name;
    ASSERT_EQ(mount("tmpfs", dir_.c_str(), "tmpfs", 0, nullptr), 0);
  }

  void TearDown() override {
    if (!dir_.empty()) {
      umount2(dir_.c_str(), MNT_DETACH);
      rmdir(dir_.c_str());
    }
  }

  std::string MakeDir(const std::string& name) const {
    std::string path = dir_ + "/" + name;
    EXPECT_EQ(mkdir(path.c_str(), 0755), 0) << path;
    return path;
  }

  std::string MakeFile(const std::string& name, const std::string& text) const {
    std::string path = dir_ + "/" + name;
    EXPECT_TRUE(WriteFile(path, text).has_value()) << path;
    return path;
  }

  std::string dir_;
};

}  // namespace wyvern::runtime
