#include "cli/verbs.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <string>
#include <vector>

#include "cli/usage.h"

namespace wyvern::cli {
namespace {

using testing::HasSubstr;

class VerbsTest : public testing::Test {
 protected:
  // The message of a wrong command line; nothing is done by a right one.
  static std::string Parse(std::vector<std::string> words) {
    CLI::App app{"Wyvern", "wyvern"};
    std::function<Result<int>()> action;
    AddVerbs(app, action);
    std::ranges::reverse(words);  // as CLI11 wants them
    try {
      app.parse(words);
    } catch (const CLI::ParseError& error) {
      return error.get_exit_code() == 0 ? app.help() : UsageMessage(app, error);
    }
    return action ? "parsed" : "parsed to nothing";
  }
};

TEST_F(VerbsTest, ExecNeedsACommandExceptInTheGuest) {
  EXPECT_EQ(Parse({"exec", "--guest", "web"}), "parsed");
  EXPECT_THAT(Parse({"exec", "web"}), HasSubstr("command is required"));
}

TEST_F(VerbsTest, RepeatedOptionsTakeOneValueEach) {
  EXPECT_EQ(Parse({"run", "-e", "A=1", "-e", "B=2", "-v", "/a:/b", "image", "--", "sh", "-c", "x"}),
            "parsed");
}

TEST_F(VerbsTest, ConfigOfASandboxOrWithAFileIsTheEffectiveOne) {
  EXPECT_EQ(Parse({"config"}), "parsed");
  EXPECT_EQ(Parse({"config", "--effective", "web"}), "parsed");
  EXPECT_EQ(Parse({"config", "--effective", "--config", "/x.yaml"}), "parsed");
  EXPECT_THAT(Parse({"config", "web"}), HasSubstr("wyvern config: id requires --effective;"));
  EXPECT_THAT(Parse({"config", "--config", "/x.yaml"}),
              HasSubstr("--config requires --effective;"));
  EXPECT_THAT(Parse({"config", "--effective", "web", "--config", "/x.yaml"}),
              HasSubstr("id excludes --config;"));
}

}  // namespace
}  // namespace wyvern::cli
