// cli/command_line.h — what the definition of the command line says of a verb, for who writes it down: manual pages, completions.
// Shape:   a verb of a verb is one of its own: "guest import". What is hidden (an empty group) is left out.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace wyvern::cli {

struct OptionInfo {
  std::vector<std::string> names;  // "-n", "--namespace"
  std::string value;               // of what kind, in capitals: "MEMORY"; empty: a flag
  std::string help;
};

struct PositionalInfo {
  std::string name;
  std::string help;
  bool required = false;
};

struct VerbInfo {
  std::vector<std::string> path;  // without "wyvern"; empty: wyvern itself
  std::string help;
  std::string footer;
  std::vector<OptionInfo> options;
  std::vector<PositionalInfo> positionals;
  std::vector<std::pair<std::string, std::string>> verbs;  // below it, with their help

  // "wyvern guest import" with " " between.
  std::string Name(const char* between) const;
};

// wyvern itself first, then every verb in order, each followed by those below it.
std::vector<VerbInfo> VerbsOf(const CLI::App& app);

}  // namespace wyvern::cli
