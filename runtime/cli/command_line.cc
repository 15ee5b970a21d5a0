#include "cli/command_line.h"

#include <algorithm>
#include <cctype>
#include <utility>

namespace wyvern::cli {

namespace {

std::string Capitals(std::string text) {
  std::ranges::transform(text, text.begin(), [](unsigned char c) {
    return c == '-' ? '_' : static_cast<char>(std::toupper(c));
  });
  return text;
}

void AddVerb(const CLI::App& app, std::vector<std::string> path, std::vector<VerbInfo>& all) {
  VerbInfo verb;
  verb.help = app.get_description();
  verb.footer = app.get_footer();
  for (const CLI::Option* option : app.get_options()) {
    if (option->get_group().empty()) {
      continue;
    }
    if (!option->nonpositional()) {
      verb.positionals.push_back({option->get_name(/*positional=*/true), option->get_description(),
                                  option->get_required()});
      continue;
    }
    OptionInfo info;
    for (const std::string& name : option->get_snames()) {
      info.names.push_back("-" + name);
    }
    for (const std::string& name : option->get_lnames()) {
      info.names.push_back("--" + name);
    }
    if (option->get_items_expected_max() > 0) {
      info.value = Capitals(option->get_lnames().empty() ? option->get_snames().front()
                                                         : option->get_lnames().front());
    }
    info.help = option->get_description();
    verb.options.push_back(std::move(info));
  }
  std::vector<const CLI::App*> below = app.get_subcommands(
      [](const CLI::App* verb_below) { return !verb_below->get_group().empty(); });
  for (const CLI::App* one : below) {
    verb.verbs.emplace_back(one->get_name(), one->get_description());
  }
  verb.path = path;
  all.push_back(std::move(verb));
  for (const CLI::App* one : below) {
    std::vector<std::string> longer = path;
    longer.push_back(one->get_name());
    AddVerb(*one, std::move(longer), all);
  }
}

}  // namespace

std::string VerbInfo::Name(const char* between) const {
  std::string name = "wyvern";
  for (const std::string& part : path) {
    name += between + part;
  }
  return name;
}

std::vector<VerbInfo> VerbsOf(const CLI::App& app) {
  std::vector<VerbInfo> all;
  AddVerb(app, {}, all);
  return all;
}

}  // namespace wyvern::cli
