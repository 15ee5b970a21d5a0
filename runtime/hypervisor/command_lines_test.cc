#include "hypervisor/command_lines.h"

#include <gmock/gmock.h>

namespace wyvern::runtime {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr char kWords[] =
    "console=ttyS0 quiet panic=1 oops=panic pci=lastbus=0 root=/dev/pmem0 rootfstype=erofs "
    "rootflags=dax=always ro rootwait=10 dummy.numdummies=0 maxcpus=1 init=/sbin/wyvern-agent "
    "wyvern.log=";

TEST(CommandLinesTest, KernelIsToldWhereItsRootIsAndToWaitForIt) {
  EXPECT_EQ(KernelCommandLine({}), std::string(kWords) + "info");
}

TEST(CommandLinesTest, GuestStartsTheVcpusThatRunAndNoOthers) {
  MachineOptions options;
  options.vcpus = 3;
  EXPECT_THAT(KernelCommandLine(options), HasSubstr(" maxcpus=3 "));
}

TEST(CommandLinesTest, WordsOfTheConfigurationComeLast) {
  MachineOptions options;
  options.extra_cmdline = "rootwait=1 wyvern.log=debug";
  EXPECT_EQ(KernelCommandLine(options), std::string(kWords) + "info rootwait=1 wyvern.log=debug");
}

TEST(CommandLinesTest, PolicyOfTheAgentIsAWordAlsoWhenItAllowsNothing) {
  MachineOptions options;
  options.allow = "exec,signal";
  EXPECT_EQ(KernelCommandLine(options), std::string(kWords) + "info wyvern.allow=exec,signal");
  options.allow = "";
  EXPECT_EQ(KernelCommandLine(options), std::string(kWords) + "info wyvern.allow=");
}

TEST(CommandLinesTest, ProcessesAreToldNoPathOfTheHost) {
  MachineOptions options;
  options.id = "box";
  options.vmm_binary = "/vmm";
  options.fs_binary = "/fs";
  options.share_queues = 2;
  options.image = "/image";
  EXPECT_THAT(VmmArguments(options), ElementsAre("/vmm", "--id", "box", "--log-level", "info"));
  EXPECT_THAT(FileServerArguments(options), ElementsAre("/fs", "--id", "box", "--tag", "wyvern",
                                                        "--queues", "2", "--log-level", "info"));
}

TEST(CommandLinesTest, LogLevelGoesToAllThree) {
  MachineOptions options;
  options.log_level = LogLevel::kError;
  EXPECT_EQ(KernelCommandLine(options), std::string(kWords) + "error");
  EXPECT_EQ(VmmArguments(options).back(), "error");
  EXPECT_EQ(FileServerArguments(options).back(), "error");
}

}  // namespace
}  // namespace wyvern::runtime
