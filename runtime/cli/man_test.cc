#include "cli/man.h"

#include <gmock/gmock.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "base/subprocess.h"
#include "base/testing/must.h"
#include "cli/command_line.h"
#include "cli/verbs.h"
#include "config/config.h"

namespace wyvern::cli {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;

class ManTest : public testing::Test {
 protected:
  ManTest() { AddVerbs(app_, action_); }

  CLI::App app_{"Wyvern", "wyvern"};
  std::function<Result<int>()> action_;
};

TEST_F(ManTest, EveryVerbHasItsPage) {
  const auto pages = ManPages(app_);
  for (const VerbInfo& verb : VerbsOf(app_)) {
    const auto page = pages.find("share/man/man1/" + verb.Name("-") + ".1");
    ASSERT_NE(page, pages.end()) << verb.Name(" ");
    EXPECT_THAT(page->second, AllOf(HasSubstr(".SH NAME"), HasSubstr(".SH EXAMPLES")));
  }
  EXPECT_EQ(pages.size(), VerbsOf(app_).size() + 1);
}

TEST_F(ManTest, EveryKeyIsInItsPage) {
  const std::string page = Must(ManPage(app_, "wyvern.yaml"));
  for (const auto& key : runtime::KeyDocuments()) {
    EXPECT_THAT(page, HasSubstr(".BR " + std::string(key.name) + " ")) << key.name;
  }
}

TEST_F(ManTest, PagesAreFoundByTheNamesThatOneTypes) {
  const std::string page = Must(ManPage(app_, "wyvern-guest-import"));
  EXPECT_EQ(Must(ManPage(app_, "guest import")), page);
  EXPECT_EQ(Must(ManPage(app_, "guest-import")), page);
  EXPECT_THAT(Must(ManPage(app_, "wyvern")), HasSubstr("EXIT STATUS"));
  EXPECT_THAT(ManPage(app_, "keep-run").error().message(), HasSubstr("there are"));
}

TEST_F(ManTest, ManAndMandocHaveNothingToSay) {
  std::string pattern = fs::temp_directory_path() / "wyvern-man-XXXXXX";
  const fs::path directory = mkdtemp(pattern.data());
  SpawnOptions options;
  options.env = {"PATH=/usr/bin:/bin", "MANWIDTH=100", "LC_ALL=C.UTF-8"};
  const bool mandoc = access("/usr/bin/mandoc", X_OK) == 0;
  options.argv = mandoc ? std::vector<std::string>{"/usr/bin/mandoc", "-T", "lint", "-W", "error"}
                        : std::vector<std::string>{"/usr/bin/man", "--warnings", "-l"};
  if (access(options.argv.front().c_str(), X_OK) != 0) {
    fs::remove_all(directory);
    GTEST_SKIP() << "neither man nor mandoc is installed";
  }
  for (const auto& [path, text] : ManPages(app_)) {
    const fs::path file = directory / fs::path(path).filename();
    std::ofstream(file) << text;
    options.argv.push_back(file);
  }
  const CommandOutput output = Must(RunCommand(options, 60000));
  EXPECT_EQ(output.status.AsShell(), 0);
  EXPECT_EQ(mandoc ? output.out : output.err, "");
  fs::remove_all(directory);
}

}  // namespace
}  // namespace wyvern::cli
