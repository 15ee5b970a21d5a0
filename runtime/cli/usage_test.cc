#include "cli/usage.h"

#include <gtest/gtest.h>

namespace wyvern::cli {
namespace {

class UsageTest : public testing::Test {
 protected:
  UsageTest() {
    app.require_subcommand(1);
    auto* exec = app.add_subcommand("exec", "");
    exec->add_option("id", id)->required();
    exec->add_option("command", command);
    exec->add_flag("--guest", guest);
    exec->add_option("--cpus", cpus)->check(CLI::Range(1, 8));
    auto* outer = app.add_subcommand("guest", "");
    outer->require_subcommand(1);
    outer->add_subcommand("import", "")->add_option("--kernel", id)->required();
  }

  std::string Parse(std::vector<std::string> words) {
    std::reverse(words.begin(), words.end());  // as CLI11 wants them
    try {
      app.parse(words);
    } catch (const CLI::ParseError& error) {
      return UsageMessage(app, error);
    }
    return "parsed";
  }

  CLI::App app{"", "wyvern"};
  std::string id;
  std::vector<std::string> command;
  bool guest = false;
  int cpus = 0;
};

TEST_F(UsageTest, UnknownOptionIsNamedEvenWhenOthersAreMissing) {
  EXPECT_EQ(Parse({"exec", "--bogus"}),
            "wyvern exec: unknown option --bogus (options of the command to run come after "
            "\"--\"); see: wyvern exec --help");
  EXPECT_EQ(Parse({"guest", "import", "--bogus"}),
            "wyvern guest import: unknown option --bogus; see: wyvern guest import --help");
  EXPECT_EQ(Parse({"--bogus"}), "wyvern: unknown option --bogus; see: wyvern --help");
}

TEST_F(UsageTest, UnknownAndMissingCommands) {
  EXPECT_EQ(Parse({"bogus"}), "wyvern: unknown command \"bogus\"; see: wyvern --help");
  EXPECT_EQ(Parse({}), "wyvern: a command is required; see: wyvern --help");
  EXPECT_EQ(Parse({"guest"}), "wyvern guest: a command is required; see: wyvern guest --help");
  EXPECT_EQ(Parse({"guest", "bogus"}),
            "wyvern guest: unknown command \"bogus\"; see: wyvern guest --help");
}

TEST_F(UsageTest, MissingAndWrongValues) {
  EXPECT_EQ(Parse({"exec"}), "wyvern exec: id is required; see: wyvern exec --help");
  EXPECT_EQ(Parse({"exec", "--cpus", "9", "web"}),
            "wyvern exec: --cpus: Value 9 not in range 1 to 8; see: wyvern exec --help");
  EXPECT_EQ(Parse({"exec", "web", "--", "ls", "-l"}), "parsed");
  EXPECT_EQ(command, (std::vector<std::string>{"ls", "-l"}));
}

}  // namespace
}  // namespace wyvern::cli
