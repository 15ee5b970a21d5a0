#include "cli/man.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <ranges>
#include <string_view>
#include <vector>

#include "cli/command_line.h"
#include "cli/version.h"
#include "config/config.h"

namespace wyvern::cli {

namespace {

// Text in which nothing is a request or an escape: man(7), groff(7) "Control characters".
std::string Escaped(std::string_view text) {
  std::string out;
  bool line_begin = true;
  for (const char c : text) {
    if (line_begin && (c == '.' || c == '\'')) {
      out += "\\&";
    }
    line_begin = c == '\n';
    if (c == '\\') {
      out += "\\e";
    } else if (c == '-') {
      out += "\\-";
    } else if (c == '\'') {
      out += "\\(aq";
    } else if (c == '`') {
      out += "\\(ga";
    } else if (c == '^' || c == '~') {
      out += c == '^' ? "\\(ha" : "\\(ti";
    } else {
      out += c;
    }
  }
  return out;
}

std::string Head(std::string_view title, int section) {
  return fmt::format(".TH \"{}\" {} \"\" \"wyvern {}\" \"Wyvern\"\n.SH NAME\n", Escaped(title),
                     section, kVersion);
}

// The first sentence of a help text, as a page's NAME has it.
std::string_view Brief(std::string_view help) {
  return help.substr(0, help.find(';'));
}

// "Examples:" and the indented lines under it stand as they are; the rest is text.
void AppendFooter(std::string& out, std::string_view footer) {
  bool examples = false;
  while (!footer.empty()) {
    const size_t end = std::min(footer.find('\n'), footer.size());
    const std::string_view line = footer.substr(0, end);
    footer.remove_prefix(std::min(end + 1, footer.size()));
    if (line.starts_with("Example")) {
      out += ".SH EXAMPLES\n";
    } else if (line.starts_with("  ")) {
      out += (examples ? "" : ".EX\n") + Escaped(line) + "\n";
    } else if (!line.empty()) {
      out += (examples ? ".EE\n" : "") + Escaped(line) + "\n";
    }
    if (!line.empty()) {
      examples = line.starts_with("  ");
    }
  }
  out += examples ? ".EE\n" : "";
}

std::string Synopsis(const VerbInfo& verb) {
  std::string out = ".SH SYNOPSIS\n.B " + Escaped(verb.Name(" ")) + "\n";
  if (!verb.verbs.empty()) {
    return out + "VERB \\&...\n";
  }
  out += verb.options.empty() ? "" : "[options]\n";
  for (const PositionalInfo& positional : verb.positionals) {
    const std::string name = Escaped(positional.name);
    out += positional.required ? ".I " + name + "\n" : "[\\fI" + name + "\\fR]\n";
  }
  return out;
}

void AppendWords(std::string& out, const VerbInfo& verb) {
  if (!verb.positionals.empty()) {
    out += ".SH ARGUMENTS\n";
  }
  for (const PositionalInfo& positional : verb.positionals) {
    out += fmt::format(".TP\n.I {}\n{}.\n", Escaped(positional.name), Escaped(positional.help));
  }
  if (!verb.options.empty()) {
    out += ".SH OPTIONS\n";
  }
  for (const OptionInfo& option : verb.options) {
    out += fmt::format(".TP\n\\fB{}\\fR{}\n{}.\n",
                       fmt::join(option.names | std::views::transform(Escaped), "\\fR, \\fB"),
                       option.value.empty() ? "" : " \\fI" + option.value + "\\fR",
                       Escaped(option.help));
  }
}

constexpr char kOverview[] = R"(.SH EXIT STATUS
That of the container or command where one is run (128 + n for signal n);
0 for success, 1 where \fBwyvern check\fR finds something missing,
2 for a command line that is wrong, 125 for a failure of Wyvern's own.
.SH FILES
.TP
.I /etc/wyvern/wyvern.yaml
The configuration: \fBwyvern.yaml\fR(5).
.TP
.I /run/wyvern
State of living sandboxes.
.TP
.I /var/lib/wyvern
Layers that \fBwyvern run\fR unpacked, imported guests, what \fBwyvern install\fR did.
)";

std::string PageOf(const VerbInfo& verb) {
  std::string out = Head(verb.Name("-"), 1);
  out += fmt::format("{} \\- {}\n", Escaped(verb.Name("-")), Escaped(Brief(verb.help)));
  out += Synopsis(verb) + ".SH DESCRIPTION\n" + Escaped(verb.help) + ".\n";
  AppendWords(out, verb);
  if (!verb.verbs.empty()) {
    out += ".SH VERBS\n";
  }
  for (const auto& [name, help] : verb.verbs) {
    out += fmt::format(".TP\n\\fB{}\\-{}\\fR(1)\n{}.\n", Escaped(verb.Name("-")), Escaped(name),
                       Escaped(help));
  }
  out += verb.path.empty() ? kOverview : "";
  AppendFooter(out, verb.footer);
  out += ".SH SEE ALSO\n.BR wyvern (1),\n.BR wyvern.yaml (5)\n";
  return out;
}

std::string ConfigurationPage() {
  std::string out = Head("wyvern.yaml", 5);
  out +=
      "wyvern.yaml \\- configuration of Wyvern\n.SH SYNOPSIS\n.I /etc/wyvern/wyvern.yaml\n.br\n"
      ".I /etc/wyvern/conf.d/*.yaml\n.SH DESCRIPTION\n"
      "One value for each key, in YAML. Later ones take the place of earlier ones: what is built "
      "in, "
      "\\fI/etc/wyvern/wyvern.yaml\\fR, the files of \\fI/etc/wyvern/conf.d\\fR in order of their "
      "names, the runtime options of containerd, and annotations \\fBio.wyvern.\\fIkey\\fR of "
      "containers for the keys that \\fBannotations.allow\\fR lists. Unknown keys are errors. "
      "\\fBwyvern config \\-\\-effective\\fR prints every value with where it comes from. "
      "A living sandbox keeps what it was started with.\n.SH KEYS\n";
  for (const runtime::KeyDocument& key : runtime::KeyDocuments()) {
    const std::string_view fallback = key.fallback.empty() ? "empty" : key.fallback;
    out += fmt::format(".TP\n.BR {} \" (default: {})\"\n{}\n", Escaped(key.name), Escaped(fallback),
                       Escaped(key.text));
    out += key.system_only ? "Neither runtime options nor annotations set it.\n" : "";
  }
  return out + ".SH SEE ALSO\n.BR wyvern (1),\n.BR wyvern\\-config (1)\n";
}

}  // namespace

std::map<std::string, std::string> ManPages(const CLI::App& app) {
  std::map<std::string, std::string> pages = {
      {"share/man/man5/wyvern.yaml.5", ConfigurationPage()}};
  for (const VerbInfo& verb : VerbsOf(app)) {
    pages.emplace("share/man/man1/" + verb.Name("-") + ".1", PageOf(verb));
  }
  return pages;
}

Result<std::string> ManPage(const CLI::App& app, const std::string& page) {
  std::string name = page;
  std::ranges::replace(name, ' ', '-');
  const auto pages = ManPages(app);
  for (const std::string& candidate :
       {"share/man/man1/" + name + ".1", "share/man/man1/wyvern-" + name + ".1",
        "share/man/man5/" + name + ".5"}) {
    if (const auto it = pages.find(candidate); it != pages.end()) {
      return it->second;
    }
  }
  std::vector<std::string> names;
  for (const auto& [path, text] : pages) {
    const size_t slash = path.rfind('/') + 1;
    names.push_back(path.substr(slash, path.rfind('.') - slash));
  }
  return Fail(Code::kNotFound,
              fmt::format("no page '{}': there are {}", page, fmt::join(names, ", ")));
}

}  // namespace wyvern::cli
