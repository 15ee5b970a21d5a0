#include "cli/completion.h"

#include <gmock/gmock.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "base/subprocess.h"
#include "base/testing/must.h"
#include "cli/command_line.h"
#include "cli/verbs.h"

namespace wyvern::cli {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::Contains;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::Not;

class CompletionTest : public testing::Test {
 protected:
  CompletionTest() {
    AddVerbs(app_, action_);
    std::string pattern = fs::temp_directory_path() / "wyvern-completion-XXXXXX";
    directory_ = mkdtemp(pattern.data());
    std::ofstream(directory_ / "wyvern") << "#!/bin/sh\n"
                                            "echo 'SANDBOX CONTAINER NAMESPACE'\n"
                                            "echo 'web web default'\necho 'pod db k8s.io'\n"
                                            "echo 'empty - k8s.io'\n";
    fs::permissions(directory_ / "wyvern", fs::perms::owner_all);
  }

  ~CompletionTest() override { fs::remove_all(directory_); }

  // A script of ours in a file of its own.
  std::string Script(const std::string& shell) {
    const fs::path file = directory_ / ("script." + shell);
    std::ofstream(file) << Must(CompletionScript(app_, shell));
    return file;
  }

  CommandOutput Command(std::vector<std::string> argv) const {
    SpawnOptions options;
    options.argv = std::move(argv);
    options.env = {"PATH=" + directory_.string() + ":/usr/bin:/bin"};
    options.cwd = directory_;
    return Must(RunCommand(options, 20000));
  }

  // What bash offers for each of the lines; the last word of one is what is being typed.
  std::vector<std::vector<std::string>> Offered(
      const std::vector<std::vector<std::string>>& lines) {
    std::string program = "source " + Script("bash") + "\n";
    for (const auto& line : lines) {
      program += "COMP_WORDS=(wyvern";
      for (const std::string& word : line) {
        program += " '" + word + "'";
      }
      program += "); COMP_CWORD=" + std::to_string(line.size()) +
                 "; COMPREPLY=(); _wyvern; echo \"${COMPREPLY[*]}\"\n";
    }
    const CommandOutput output = Command({"/bin/bash", "--norc", "-c", program});
    EXPECT_EQ(output.err, "");
    std::vector<std::vector<std::string>> offered;
    std::istringstream all(output.out);
    for (std::string line; std::getline(all, line);) {
      std::istringstream words(line);
      std::vector<std::string> one;
      for (std::string word; words >> word;) {
        one.push_back(word);
      }
      offered.push_back(one);
    }
    EXPECT_EQ(offered.size(), lines.size());
    offered.resize(lines.size());
    return offered;
  }

  std::vector<std::string> Offer(const std::vector<std::string>& line) {
    return Offered({line}).front();
  }

  CLI::App app_{"Wyvern", "wyvern"};
  std::function<Result<int>()> action_;
  fs::path directory_;
};

TEST_F(CompletionTest, BashOffersEveryVerbAndOption) {
  std::vector<std::vector<std::string>> lines;
  std::vector<std::vector<std::string>> wanted;
  for (const VerbInfo& verb : VerbsOf(app_)) {
    std::vector<std::string> line = verb.path;
    line.emplace_back("-");
    lines.push_back(line);
    wanted.emplace_back();
    for (const OptionInfo& option : verb.options) {
      wanted.back().insert(wanted.back().end(), option.names.begin(), option.names.end());
    }
    if (!verb.verbs.empty()) {
      line.back() = "";
      lines.push_back(line);
      wanted.emplace_back();
      for (const auto& [name, help] : verb.verbs) {
        wanted.back().push_back(name);
      }
      if (!verb.positionals.empty() && verb.positionals.front().name == "id") {
        wanted.back().insert(wanted.back().end(), {"db", "empty", "pod", "web"});
      }
    }
  }
  ASSERT_GT(lines.size(), 20U);
  EXPECT_EQ(Offered(lines), wanted);
}

TEST_F(CompletionTest, BashOffersWhatBeginsSo) {
  EXPECT_THAT(Offer({"gu"}), ElementsAre("guest"));
  EXPECT_THAT(Offer({"guest", "im"}), ElementsAre("import"));
  EXPECT_THAT(Offer({"run", "--mem"}), ElementsAre("--memory"));
  EXPECT_THAT(Offer({""}), Not(Contains("keep-run")));
}

TEST_F(CompletionTest, BashOffersLivingSandboxesAndContainers) {
  EXPECT_THAT(Offer({"exec", ""}), ElementsAre("db", "empty", "pod", "web"));
  EXPECT_THAT(Offer({"inspect", "-n", "default", "w"}), ElementsAre("web"));
}

TEST_F(CompletionTest, BashLeavesTheRestToFiles) {
  EXPECT_THAT(Offer({"run", "--config", "-"}), IsEmpty());
  EXPECT_THAT(Offer({"run", "-v", ""}), IsEmpty());
  EXPECT_THAT(Offer({"run", "image.tar"}), IsEmpty());
  EXPECT_THAT(Offer({"exec", "web", "--", "-"}), IsEmpty());
}

TEST_F(CompletionTest, AVerbInTheWrongPlaceIsNone) {
  EXPECT_THAT(Offer({"run", "guest", "im"}), IsEmpty());
}

TEST_F(CompletionTest, OtherShellsTakeTheirScripts) {
  int tried = 0;
  for (const char* shell : {"zsh", "fish"}) {
    const std::string program = std::string("/usr/bin/") + shell;
    if (access(program.c_str(), X_OK) == 0) {
      const CommandOutput output = Command({program, "-n", Script(shell)});
      EXPECT_EQ(output.status.AsShell(), 0) << output.err;
      ++tried;
    }
  }
  if (tried == 0) {
    GTEST_SKIP() << "neither zsh nor fish is installed";
  }
}

TEST_F(CompletionTest, AnUnknownShellIsAnError) {
  EXPECT_EQ(CompletionScript(app_, "tcsh").error().code(), Code::kInvalidArgument);
}

}  // namespace
}  // namespace wyvern::cli
