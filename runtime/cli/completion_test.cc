#include "cli/completion.h"

#include <gmock/gmock.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
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

  void TearDown() override { fs::remove_all(directory_); }

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

  static bool Has(const std::string& shell) {
    return access(("/usr/bin/" + shell).c_str(), X_OK) == 0;
  }

  // Words of a program's output: a line for each that it was asked for.
  std::vector<std::vector<std::string>> LinesOf(const std::vector<std::string>& argv,
                                                size_t count) const {
    const CommandOutput output = Command(argv);
    EXPECT_EQ(output.err, "");
    std::vector<std::vector<std::string>> offered;
    std::istringstream all(output.out);
    for (std::string line; std::getline(all, line);) {
      std::istringstream words(line);
      offered.emplace_back(std::istream_iterator<std::string>(words),
                           std::istream_iterator<std::string>());
    }
    EXPECT_EQ(offered.size(), count);
    offered.resize(count);
    return offered;
  }

  static std::string QuotedWords(const std::vector<std::string>& words) {
    std::string out = "wyvern";
    for (const std::string& word : words) {
      out += " '" + word + "'";
    }
    return out;
  }

  // What bash offers for each of the lines; the last word of one is what is being typed.
  std::vector<std::vector<std::string>> Offered(
      const std::vector<std::vector<std::string>>& lines) {
    std::string program = "source " + Script("bash") + "\n";
    for (const auto& line : lines) {
      program += "COMP_WORDS=(" + QuotedWords(line) +
                 "); COMP_CWORD=" + std::to_string(line.size()) +
                 "; COMPREPLY=(); _wyvern; echo \"${COMPREPLY[*]}\"\n";
    }
    return LinesOf({"/bin/bash", "--norc", "-c", program}, lines.size());
  }

  // Sorted; without files.
  std::vector<std::vector<std::string>> OfferedByFish(
      const std::vector<std::vector<std::string>>& lines) {
    std::string program = "source " + Script("fish") + "\n";
    for (const auto& line : lines) {
      std::string typed = "wyvern";
      for (const std::string& word : line) {
        typed += " " + word;
      }
      program += "echo (complete -C '" + typed +
                 "' | string replace -r '\\t.*' '' | string match -v '*script.fish' | sort -u)\n";
    }
    auto offered = LinesOf({"/usr/bin/fish", "--no-config", "-c", program}, lines.size());
    for (auto& words : offered) {
      std::sort(words.begin(), words.end());
    }
    return offered;
  }

  // Sorted. Zsh's own functions, which need a terminal, are stood in for: each says what it is given.
  std::vector<std::vector<std::string>> OfferedByZsh(
      const std::vector<std::vector<std::string>>& lines) {
    std::string program =
        "compdef() { }\n_files() { }\n"
        "compadd() { shift; offered+=(\"$@\") }\n"
        "_describe() { [[ $1 == -o ]] && shift; local each; for each in \"${(@P)2}\"; do "
        "offered+=(\"${each%%:*}\"); done }\n"
        "source " +
        Script("zsh") + "\n";
    for (const auto& line : lines) {
      program += "words=(" + QuotedWords(line) + "); CURRENT=" + std::to_string(line.size() + 1) +
                 "; offered=(); _wyvern; echo $offered\n";
    }
    auto offered = LinesOf({"/usr/bin/zsh", "-f", "-c", program}, lines.size());
    for (auto& words : offered) {
      std::sort(words.begin(), words.end());
    }
    return offered;
  }

  std::vector<std::string> Offer(const std::vector<std::string>& line) {
    return Offered({line}).front();
  }

  CLI::App app_{"Wyvern", "wyvern"};
  std::function<Result<int>()> action_;
  fs::path directory_;
};

TEST_F(CompletionTest, EveryShellOffersEveryVerbAndOption) {
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
  // Their own order.
  for (auto& words : wanted) {
    std::sort(words.begin(), words.end());
  }
  if (Has("fish")) {
    EXPECT_EQ(OfferedByFish(lines), wanted);
  }
  if (Has("zsh")) {
    EXPECT_EQ(OfferedByZsh(lines), wanted);
  }
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

// Nothing of ours: the shells have files to offer there.
std::vector<std::vector<std::string>> NothingToOffer() {
  return {
      {"run", "guest", "im"}, {"exec", "web", "--", "-"}, {"exec", "web", "--", "run", "--mem"}};
}

TEST_F(CompletionTest, FishKnowsWhereAVerbIs) {
  if (!Has("fish")) {
    GTEST_SKIP() << "fish is not installed";
  }
  EXPECT_THAT(OfferedByFish(NothingToOffer()), testing::Each(IsEmpty()));
  EXPECT_THAT(OfferedByFish({{"run", "--mem"}, {"exec", "w"}}),
              ElementsAre(ElementsAre("--memory"), ElementsAre("web")));
}

TEST_F(CompletionTest, ZshKnowsWhereAVerbIs) {
  if (!Has("zsh")) {
    GTEST_SKIP() << "zsh is not installed";
  }
  EXPECT_THAT(OfferedByZsh(NothingToOffer()), testing::Each(IsEmpty()));
}

TEST_F(CompletionTest, AnUnknownShellIsAnError) {
  EXPECT_EQ(CompletionScript(app_, "tcsh").error().code(), Code::kInvalidArgument);
}

}  // namespace
}  // namespace wyvern::cli
