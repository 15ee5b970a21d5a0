#include "cli/verbs.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <map>
#include <sstream>
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

TEST_F(VerbsTest, NamespaceGoesWithEachVerbThatNamesASandbox) {
  for (const char* verb : {"exec", "inspect", "logs", "timeline"}) {
    std::vector<std::string> words = {verb, "-n", "default", "web"};
    if (words[0] == "exec") {
      words.insert(words.end(), {"--", "true"});
    }
    EXPECT_EQ(Parse(words), "parsed") << verb;
  }
  EXPECT_EQ(Parse({"config", "--effective", "--namespace", "default", "web"}), "parsed");
  EXPECT_THAT(Parse({"config", "--effective", "-n", "default"}),
              HasSubstr("--namespace requires id;"));
}

TEST_F(VerbsTest, ResizeTakesANumberThatAMachineCanHave) {
  EXPECT_EQ(Parse({"resize", "--cpus", "4", "--memory", "2GiB", "-n", "default", "web"}), "parsed");
  EXPECT_EQ(Parse({"resize", "web", "--cpus", "1"}), "parsed");
  EXPECT_THAT(Parse({"resize", "--cpus", "0", "web"}), HasSubstr("--cpus"));
  EXPECT_THAT(Parse({"resize", "--cpus", "33", "web"}), HasSubstr("--cpus"));
  EXPECT_THAT(Parse({"resize", "--cpus", "2"}), HasSubstr("id is required"));
}

TEST_F(VerbsTest, DirectVolumesGoByTheirPath) {
  EXPECT_EQ(Parse({"direct-volume", "add", "--volume-path", "/v", "--mount-info", "{}"}), "parsed");
  EXPECT_EQ(Parse({"direct-volume", "delete", "--volume-path", "/v"}), "parsed");
  EXPECT_EQ(Parse({"direct-volume", "resize", "--volume-path", "/v", "--size", "2GiB"}), "parsed");
  EXPECT_THAT(Parse({"direct-volume", "stats"}), HasSubstr("--volume-path is required"));
  EXPECT_THAT(Parse({"direct-volume"}), HasSubstr("direct-volume: a command is required"));
}

TEST_F(VerbsTest, MetricsAreOfOneSandboxOrOfTheNode) {
  EXPECT_EQ(Parse({"metrics", "web"}), "parsed");
  EXPECT_EQ(Parse({"metrics", "-n", "default", "web"}), "parsed");
  EXPECT_EQ(Parse({"metrics", "--node"}), "parsed");
  EXPECT_EQ(Parse({"metrics", "--node", "--listen", "/run/x.sock"}), "parsed");
  EXPECT_THAT(Parse({"metrics"}), HasSubstr("id, or --node, is required"));
  EXPECT_THAT(Parse({"metrics", "--node", "web"}), HasSubstr("excludes"));
  EXPECT_THAT(Parse({"metrics", "--listen", "/run/x.sock", "web"}), HasSubstr("requires"));
}

TEST_F(VerbsTest, TopAndEventsAreOfAllOrOfOne) {
  EXPECT_EQ(Parse({"top"}), "parsed");
  EXPECT_EQ(Parse({"top", "-i", "0.5", "--count", "2", "web"}), "parsed");
  EXPECT_THAT(Parse({"top", "-i", "0"}), HasSubstr("not in range"));
  EXPECT_THAT(Parse({"top", "--count", "-1"}), HasSubstr("--count"));
  EXPECT_EQ(Parse({"events", "--json", "--only-new", "-n", "k8s.io"}), "parsed");
  EXPECT_EQ(Parse({"events", "web"}), "parsed");
}

TEST(VersionTest, IsAnOptionToo) {
  CLI::App app{"Wyvern", "wyvern"};
  std::function<Result<int>()> action;
  AddVerbs(app, action);
  try {
    app.parse(std::vector<std::string>{"--version"});
    FAIL() << "it is no option";
  } catch (const CLI::ParseError& error) {
    std::ostringstream out;
    EXPECT_EQ(app.exit(error, out, out), 0);
    EXPECT_THAT(out.str(), testing::MatchesRegex("wyvern [0-9.]+.*\n"));
  }
}

TEST_F(VerbsTest, RepeatedOptionsTakeOneValueEach) {
  EXPECT_EQ(Parse({"run", "-e", "A=1", "-e", "B=2", "-v", "/a:/b", "image", "--", "sh", "-c", "x"}),
            "parsed");
}

// All that a user can ask for help of, by path: "wyvern guest import".
void CollectHelp(const CLI::App& app, const std::string& path,
                 std::map<std::string, std::string>& out) {
  out[path] = app.help();
  for (const CLI::App* verb : app.get_subcommands([](const CLI::App*) { return true; })) {
    if (!verb->get_group().empty()) {  // else not for people
      CollectHelp(*verb, path + " " + verb->get_name(), out);
    }
  }
}

TEST(HelpTest, EveryVerbHasAnExampleOfItself) {
  CLI::App app{"Wyvern", "wyvern"};
  std::function<Result<int>()> action;
  AddVerbs(app, action);
  std::map<std::string, std::string> helps;
  CollectHelp(app, "wyvern", helps);
  EXPECT_GE(helps.size(), 15U);
  for (const auto& [path, help] : helps) {
    const size_t examples = help.find("Example");
    ASSERT_NE(examples, std::string::npos) << path;
    EXPECT_NE(help.find("\n  " + path, examples), std::string::npos) << help;
  }
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
