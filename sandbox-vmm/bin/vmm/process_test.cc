// The binary itself, with a command line that the runtime would not give it.
#include <gmock/gmock.h>

#include "base/subprocess.h"

namespace wyvern::vmm {
namespace {

using testing::HasSubstr;

CommandOutput RunVmm(const std::vector<std::string>& arguments) {
  SpawnOptions options{.argv = {WV_VMM}, .env = {}, .fds = {}, .cwd = ""};
  options.argv.insert(options.argv.end(), arguments.begin(), arguments.end());
  auto output = RunCommand(options, 10000);
  EXPECT_TRUE(output.has_value()) << output.error().message();
  return output.has_value() ? *std::move(output) : CommandOutput();
}

TEST(ArgumentsTest, WrongLogLevelIsNamed) {
  const CommandOutput output = RunVmm({"--id", "x", "--log-level", "loud"});
  EXPECT_EQ(output.status.AsShell(), 2);
  EXPECT_THAT(output.err,
              HasSubstr("wyvern-vmm: --log-level: \"loud\" is not debug, info, warn or error\n"));
}

TEST(ArgumentsTest, OptionWithoutValueAndUnknownOneShowTheUsage) {
  for (const char* option : {"--log-level", "--loglevel"}) {
    const CommandOutput output = RunVmm({option});
    EXPECT_EQ(output.status.AsShell(), 2) << option;
    EXPECT_THAT(output.err, HasSubstr("usage: wyvern-vmm")) << option;
  }
}

}  // namespace
}  // namespace wyvern::vmm
