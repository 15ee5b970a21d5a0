#include "hypervisor/command_lines.h"

#include <gmock/gmock.h>

namespace wyvern::runtime {
namespace {

using testing::ElementsAre;

constexpr char kWords[] =
    "console=ttyS0 quiet panic=1 oops=panic pci=lastbus=0 root=/dev/pmem0 rootfstype=erofs "
    "rootflags=dax=always ro rootwait=10 init=/sbin/wyvern-agent";

TEST(CommandLinesTest, KernelIsToldWhereItsRootIsAndToWaitForIt) {
  EXPECT_EQ(KernelCommandLine({}), kWords);
}

TEST(CommandLinesTest, WordsOfTheConfigurationComeLast) {
  MachineOptions options;
  options.extra_cmdline = "rootwait=1 debug";
  EXPECT_EQ(KernelCommandLine(options), std::string(kWords) + " rootwait=1 debug");
}

TEST(CommandLinesTest, ProcessesAreToldNoPathOfTheHost) {
  MachineOptions options;
  options.id = "box";
  options.vmm_binary = "/vmm";
  options.fs_binary = "/fs";
  options.share_queues = 2;
  options.image = "/image";
  EXPECT_THAT(VmmArguments(options), ElementsAre("/vmm", "--id", "box"));
  EXPECT_THAT(FileServerArguments(options), ElementsAre("/fs", "--tag", "wyvern", "--queues", "2"));
}

}  // namespace
}  // namespace wyvern::runtime
