#include "cli/completion.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <string_view>
#include <vector>

#include "cli/command_line.h"

namespace wyvern::cli {

namespace {

// Containers and sandboxes that live, as `wyvern ps` prints them.
constexpr char kIds[] =
    "wyvern ps 2>/dev/null | awk 'NR > 1 { print $1; if ($2 != \"-\") print $2 }' | sort -u";

// A function of fish.
constexpr char kFishAt[] = "__wyvern_at";

std::string Replaced(std::string_view text, std::string_view what, std::string_view with) {
  std::string out;
  for (size_t at = text.find(what); at != std::string_view::npos; at = text.find(what)) {
    out += text.substr(0, at);
    out += with;
    text.remove_prefix(at + what.size());
  }
  return out += text;
}

// In single quotes, as bash and zsh have them.
std::string Quoted(std::string_view text) {
  return "'" + Replaced(text, "'", "'\\''") + "'";
}

// In single quotes, as fish has them.
std::string FishQuoted(std::string_view text) {
  return "'" + Replaced(Replaced(text, "\\", "\\\\"), "'", "\\'") + "'";
}

bool TakesId(const VerbInfo& verb) {
  return !verb.positionals.empty() && verb.positionals.front().name == "id";
}

// "guest import": what the words before the cursor must have been.
std::string PathOf(const VerbInfo& verb) {
  return fmt::format("{}", fmt::join(verb.path, " "));
}

std::vector<std::string> NamesOf(const VerbInfo& verb, bool with_value_only) {
  std::vector<std::string> names;
  for (const OptionInfo& option : verb.options) {
    if (!with_value_only || !option.value.empty()) {
      names.insert(names.end(), option.names.begin(), option.names.end());
    }
  }
  return names;
}

std::vector<std::string> VerbsBelow(const VerbInfo& verb) {
  std::vector<std::string> names;
  names.reserve(verb.verbs.size());
  for (const auto& [name, help] : verb.verbs) {
    names.push_back(name);
  }
  return names;
}

// Shared by bash and zsh: which verb the words before the cursor name. `first` and `end`: numbers of words.
std::string WalkOfWords(const std::vector<VerbInfo>& verbs, const char* array, const char* first,
                        const char* end) {
  std::vector<std::string> paths;
  for (const VerbInfo& verb : verbs) {
    if (!verb.path.empty()) {
      paths.push_back(Quoted(PathOf(verb)));
    }
  }
  return fmt::format(
      "  local verb= word i\n"
      "  for ((i = {}; i < {}; i++)); do\n"
      "    word=${{{}[i]}}\n"
      "    [[ $word == -- ]] && return 1\n"
      "    case \"${{verb:+$verb }}$word\" in\n"
      "      {}) verb=\"${{verb:+$verb }}$word\" ;;\n"
      "    esac\n"
      "  done\n",
      first, end, array, fmt::join(paths, "|"));
}

std::string Bash(const std::vector<VerbInfo>& verbs) {
  std::string out =
      "# Completion of wyvern in bash, from the definition of its command line: `wyvern completion "
      "bash`.\n"
      "_wyvern() {\n"
      "  local current=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}\n"
      "  local words= options= values= ids=\n" +
      WalkOfWords(verbs, "COMP_WORDS", "1", "COMP_CWORD") + "  case \"$verb\" in\n";
  for (const VerbInfo& verb : verbs) {
    out += fmt::format(
        "    {}) words='{}' options='{}' values=' {} '{} ;;\n", Quoted(PathOf(verb)),
        fmt::join(VerbsBelow(verb), " "), fmt::join(NamesOf(verb, /*with_value_only=*/false), " "),
        fmt::join(NamesOf(verb, /*with_value_only=*/true), " "), TakesId(verb) ? " ids=yes" : "");
  }
  out += fmt::format(
      "  esac\n"
      "  COMPREPLY=()\n"
      "  [[ $values == *\" $before \"* ]] && return 1\n"
      "  if [[ $current == -* ]]; then\n"
      "    words=$options\n"
      "  elif [[ $ids ]]; then\n"
      "    words+=\" $({})\"\n"
      "  elif [[ -z $words ]]; then\n"
      "    return 1\n"
      "  fi\n"
      "  local IFS=$' \\t\\n'\n"
      "  COMPREPLY=($(compgen -W \"$words\" -- \"$current\"))\n"
      "}}\n"
      "complete -o bashdefault -o default -F _wyvern wyvern\n",
      kIds);
  return out;
}

std::string Zsh(const std::vector<VerbInfo>& verbs) {
  std::string out =
      "#compdef wyvern\n"
      "# Completion of wyvern in zsh, from the definition of its command line: `wyvern completion "
      "zsh`.\n"
      "_wyvern() {\n"
      "  local before=${words[CURRENT - 1]} current=${words[CURRENT]} ids= values=\n"
      "  local -a verbs options\n" +
      WalkOfWords(verbs, "words", "2", "CURRENT") + "  case \"$verb\" in\n";
  // What stands before the first ':' is the word.
  const auto described = [](const std::string& word, const std::string& help) {
    return "      " + Quoted(Replaced(word, ":", "\\:") + ":" + help) + "\n";
  };
  for (const VerbInfo& verb : verbs) {
    std::string below;
    std::string options;
    for (const auto& [name, help] : verb.verbs) {
      below += described(name, help);
    }
    for (const OptionInfo& option : verb.options) {
      for (const std::string& name : option.names) {
        options += described(name, option.help);
      }
    }
    out += fmt::format("    {}) verbs=(\n{}    ) options=(\n{}    ) values=' {} '{} ;;\n",
                       Quoted(PathOf(verb)), below, options,
                       fmt::join(NamesOf(verb, /*with_value_only=*/true), " "),
                       TakesId(verb) ? " ids=yes" : "");
  }
  out += fmt::format(
      "  esac\n"
      "  if [[ $values == *\" $before \"* ]]; then\n"
      "    _files\n"
      "  elif [[ $current == -* ]]; then\n"
      "    _describe -o option options\n"
      "  elif [[ $ids ]]; then\n"
      "    ((${{#verbs[@]}})) && _describe verb verbs\n"
      "    compadd -- ${{(f)\"$({})\"}}\n"
      "  elif ((${{#verbs[@]}})); then\n"
      "    _describe verb verbs\n"
      "  else\n"
      "    _files\n"
      "  fi\n"
      "}}\n"
      "if [[ $funcstack[1] == _wyvern ]]; then\n"
      "  _wyvern \"$@\"\n"
      "else\n"
      "  compdef _wyvern wyvern\n"
      "fi\n",
      kIds);
  return out;
}

// The words before the cursor name this verb and none below it.
std::string FishCondition(const VerbInfo& verb) {
  return FishQuoted(verb.path.empty() ? kFishAt : fmt::format("{} {}", kFishAt, PathOf(verb)));
}

// As WalkOfWords.
std::string FishWalk(const std::vector<VerbInfo>& verbs) {
  std::string paths;
  for (const VerbInfo& verb : verbs) {
    paths += verb.path.empty() ? "" : " " + FishQuoted(PathOf(verb));
  }
  return fmt::format(
      "function {}\n"
      "  set -l verb\n"
      "  set -l words (commandline -opc)\n"
      "  set -e words[1]\n"
      "  for word in $words\n"
      "    test \"$word\" = --; and return 1\n"
      "    switch (string join -- ' ' $verb $word)\n"
      "      case{}\n"
      "        set -a verb $word\n"
      "    end\n"
      "  end\n"
      "  test \"$verb\" = \"$argv\"\n"
      "end\n",
      kFishAt, paths);
}

std::string Fish(const std::vector<VerbInfo>& verbs) {
  std::string out =
      "# Completion of wyvern in fish, from the definition of its command line: `wyvern completion "
      "fish`.\n" +
      FishWalk(verbs);
  for (const VerbInfo& verb : verbs) {
    const std::string condition = FishCondition(verb);
    for (const auto& [name, help] : verb.verbs) {
      out += fmt::format("complete -c wyvern -n {} -f -a {} -d {}\n", condition, name,
                         FishQuoted(help));
    }
    for (const OptionInfo& option : verb.options) {
      out += "complete -c wyvern -n " + condition;
      for (const std::string& name : option.names) {
        out += name.starts_with("--") ? " -l " + name.substr(2) : " -s " + name.substr(1);
      }
      out += fmt::format("{} -d {}\n", option.value.empty() ? "" : " -r", FishQuoted(option.help));
    }
    if (TakesId(verb)) {
      out += fmt::format("complete -c wyvern -n {} -f -a {}\n", condition,
                         FishQuoted(fmt::format("({})", kIds)));
    }
  }
  return out;
}

}  // namespace

Result<std::string> CompletionScript(const CLI::App& app, const std::string& shell) {
  const std::vector<VerbInfo> verbs = VerbsOf(app);
  if (shell == "bash") {
    return Bash(verbs);
  }
  if (shell == "zsh") {
    return Zsh(verbs);
  }
  if (shell == "fish") {
    return Fish(verbs);
  }
  return Fail(Code::kInvalidArgument, shell + ": must be bash, zsh or fish");
}

std::map<std::string, std::string> Completions(const CLI::App& app) {
  const std::vector<VerbInfo> verbs = VerbsOf(app);
  return {{"share/completions/wyvern.bash", Bash(verbs)},
          {"share/completions/_wyvern", Zsh(verbs)},
          {"share/completions/wyvern.fish", Fish(verbs)}};
}

}  // namespace wyvern::cli
