#include "agent/early_boot.h"

#include <gtest/gtest.h>

#include "agent/boot.h"

namespace wyvern::agent {
namespace {

TEST(ModuleListTest, DamagedLinesAreNamed) {
  for (const char* text : {"virtio.ko\n", "virtio.ko maybe\n", " required\n", "\n",
                           "../init required\n", "a.ko required\nb.ko  optional\n"}) {
    EXPECT_FALSE(ParseModuleList(text)) << text;
  }
}

TEST(ModuleListTest, OrderAndNeedAreKept) {
  const auto modules = *ParseModuleList("virtio.ko required\ntun.ko optional\n");
  ASSERT_EQ(modules.size(), 2U);
  EXPECT_EQ(modules[0].file, "virtio.ko");
  EXPECT_TRUE(modules[0].required);
  EXPECT_EQ(modules[1].file, "tun.ko");
  EXPECT_FALSE(modules[1].required);
  EXPECT_TRUE(ParseModuleList("")->empty());
}

TEST(RootTest, CommandLineSaysWhatToMount) {
  const auto root = *RootFromCommandLine(ParseKernelCommandLine(
      "quiet root=/dev/pmem0 rootfstype=erofs rootflags=dax=always ro init=/sbin/other"));
  EXPECT_EQ(root.device, "/dev/pmem0");
  EXPECT_EQ(root.type, "erofs");
  EXPECT_EQ(root.options, "dax=always");
  EXPECT_EQ(root.init, "/sbin/other");
}

TEST(RootTest, NothingToMountIsAnError) {
  EXPECT_FALSE(RootFromCommandLine(ParseKernelCommandLine("quiet")));
  EXPECT_FALSE(RootFromCommandLine(ParseKernelCommandLine("root=UUID=1")));
}

TEST(RootTest, OnlyDaxIsTakenOut) {
  EXPECT_EQ(WithoutDax("dax=always"), "");
  EXPECT_EQ(WithoutDax("user_xattr,dax=always,acl"), "user_xattr,acl");
  EXPECT_EQ(WithoutDax("acl,dax"), "acl");
  EXPECT_EQ(WithoutDax("daxophone"), "daxophone");
}

TEST(InitramfsTest, ThisMachineIsNone) {
  EXPECT_FALSE(InInitramfs());
}

}  // namespace
}  // namespace wyvern::agent
