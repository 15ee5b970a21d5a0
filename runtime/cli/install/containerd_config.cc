#include "install/containerd_config.h"

#include <fmt/format.h>
#include <fnmatch.h>

#include <algorithm>
#include <charconv>

namespace wyvern::cli {

namespace {

constexpr std::string_view kBegin =
    "# BEGIN of what `wyvern install` added; `wyvern uninstall` removes it\n";
constexpr std::string_view kEnd = "# END of what `wyvern install` added\n";

constexpr std::string_view kRuntimes2 = "plugins.io.containerd.grpc.v1.cri.containerd.runtimes.";
constexpr std::string_view kRuntimes3 = "plugins.io.containerd.cri.v1.runtime.containerd.runtimes.";

constexpr std::string_view kPrologue2 =
    R"(# containerd 1.6 and 1.7 (configuration version 2): for the end of /etc/containerd/config.toml, where `wyvern install` puts it. As an
# imported file it would replace all of the CRI plugin's section, so that runc and the place of CNI plugins were gone: deploy/README.md.
version = 2

)";
constexpr std::string_view kPrologue3 =
    R"(# containerd 2.x (configuration version 3): a file for /etc/containerd/conf.d, if `imports` in /etc/containerd/config.toml names that
# directory; imported sections are merged with those that are there. `wyvern install` sees to both.
version = 3

)";

// The table of a handler: version 2's plugin and quotes, or those of later ones.
std::string HandlerTable(int64_t version) {
  const char quote = version <= 2 ? '"' : '\'';
  const std::string plugin =
      version <= 2 ? R"("io.containerd.grpc.v1.cri")" : "'io.containerd.cri.v1.runtime'";
  return fmt::format(
      "[plugins.{1}.containerd.runtimes.wyvern]\n"
      "  runtime_type = {0}io.containerd.wyvern.v2{0}\n"
      "  # A privileged container gets the devices of its virtual machine, never those of the "
      "host.\n"
      "  privileged_without_host_devices = true\n"
      "  # Which annotations of a pod reach Wyvern; what they may set is annotations.allow in "
      "/etc/wyvern/wyvern.yaml.\n"
      "  pod_annotations = [{0}io.wyvern.*{0}, {0}io.katacontainers.*{0}, "
      "{0}kubernetes.io/*-bandwidth{0}]\n",
      quote, plugin);
}

// Walks over TOML without judging it.
class Walker {
 public:
  explicit Walker(std::string_view text) : text_(text) {}

  std::vector<TomlStatement> Statements() {
    std::vector<TomlStatement> found;
    std::string section;
    for (Blank(); at_ < text_.size(); Blank()) {
      TomlStatement statement;
      statement.line = line_;
      if (text_[at_] == '[') {
        const std::string_view header = Until("\n#", /*nested=*/false);
        section = Joined(header.substr(std::min(header.find_first_not_of('['), header.size())));
        statement.section = section;
      } else {
        statement.section = section;
        statement.key = Joined(Until("=\n", /*nested=*/false));
        if (at_ < text_.size() && text_[at_] == '=') {
          Advance();
          statement.value = Trimmed(Until("\n#", /*nested=*/true));
        }
      }
      if (!statement.section.empty() || !statement.key.empty()) {
        found.push_back(std::move(statement));
      }
      Until("\n", /*nested=*/false, /*raw=*/true);
    }
    return found;
  }

 private:
  static std::string_view Trimmed(std::string_view text) {
    const size_t begin = text.find_first_not_of(" \t\r\n");
    return begin == std::string_view::npos
               ? std::string_view()
               : text.substr(begin, text.find_last_not_of(" \t\r\n") - begin + 1);
  }

  // A key's parts without blanks and quotes, dots between; a header's, up to its bracket.
  static std::string Joined(std::string_view key) {
    std::string out;
    char quote = 0;
    for (const char c : key) {
      if (quote != 0 ? c == quote : c == '"' || c == '\'') {
        quote = quote != 0 ? '\0' : c;
      } else if (quote == 0 && c == ']') {
        break;
      } else if (quote != 0 || (c != ' ' && c != '\t' && c != '\r')) {
        out += c;
      }
    }
    return out;
  }

  void Advance() { line_ += text_[at_++] == '\n' ? 1 : 0; }

  void Blank() {
    while (at_ < text_.size() && (text_[at_] == '#' || std::string_view(" \t\r\n").find(
                                                           text_[at_]) != std::string_view::npos)) {
      if (text_[at_] == '#') {
        Until("\n", /*nested=*/false, /*raw=*/true);
      } else {
        Advance();
      }
    }
  }

  // One string, of any of the four kinds; at its first quote.
  void String() {
    const char quote = text_[at_];
    const std::string three(3, quote);
    const bool lines = text_.substr(at_).starts_with(three);
    const std::string_view end =
        lines ? std::string_view(three) : std::string_view(three).substr(2);
    at_ += end.size();
    while (at_ < text_.size() && !text_.substr(at_).starts_with(end)) {
      if (!lines && text_[at_] == '\n') {
        return;  // it does not end
      }
      if (quote == '"' && text_[at_] == '\\' && at_ + 1 < text_.size()) {
        Advance();
      }
      Advance();
    }
    at_ = std::min(at_ + end.size(), text_.size());
  }

  // Up to one of `stops` outside of strings and, if `nested`, of brackets, where comments are skipped.
  std::string_view Until(std::string_view stops, bool nested, bool raw = false) {
    const size_t begin = at_;
    int depth = 0;
    while (at_ < text_.size()) {
      const char c = text_[at_];
      if (depth == 0 && stops.find(c) != std::string_view::npos) {
        break;
      }
      if (!raw && (c == '"' || c == '\'')) {
        String();
        continue;
      }
      if (depth > 0 && c == '#') {
        Until("\n", /*nested=*/false, /*raw=*/true);
        continue;
      }
      if (nested) {
        depth += c == '[' || c == '{' ? 1 : 0;
        depth -= (c == ']' || c == '}') && depth > 0 ? 1 : 0;
      }
      Advance();
    }
    return text_.substr(begin, at_ - begin);
  }

  std::string_view text_;
  size_t at_ = 0;
  int line_ = 1;
};

// NAME of "<prefix>NAME" or "<prefix>NAME.options".
std::string HandlerOf(std::string_view section) {
  for (const std::string_view prefix : {kRuntimes2, kRuntimes3}) {
    if (section.starts_with(prefix)) {
      section.remove_prefix(prefix.size());
      return std::string(section.substr(0, section.find('.')));
    }
  }
  return "";
}

}  // namespace

std::vector<TomlStatement> TomlStatements(std::string_view text) {
  return Walker(text).Statements();
}

std::vector<std::string> TomlStrings(std::string_view value) {
  std::vector<std::string> found;
  char quote = 0;
  for (size_t i = 0; i < value.size(); ++i) {
    const char c = value[i];
    if (quote == 0) {
      if (c == '#') {
        i = std::min(value.find('\n', i), value.size());
      } else if (c == '"' || c == '\'') {
        quote = c;
        found.emplace_back();
      }
    } else if (c == quote) {
      quote = 0;
    } else {
      found.back() += c;
      if (quote == '"' && c == '\\' && i + 1 < value.size()) {
        found.back() += value[++i];
      }
    }
  }
  return found;
}

ContainerdConfig ReadContainerdConfig(std::string_view text) {
  ContainerdConfig config;
  for (const TomlStatement& statement : TomlStatements(text)) {
    if (statement.section.empty() && statement.key == "version") {
      std::from_chars(statement.value.data(), statement.value.data() + statement.value.size(),
                      config.version);
    } else if (statement.section.empty() && statement.key == "imports") {
      config.imports = TomlStrings(statement.value);
    } else if (statement.section.empty() && statement.key == "disabled_plugins") {
      config.cri_disabled = std::ranges::any_of(TomlStrings(statement.value), [](const auto& name) {
        return name == "cri" || name == "io.containerd.grpc.v1.cri";
      });
    }
    const std::string handler = HandlerOf(
        statement.key.empty() ? statement.section : statement.section + "." + statement.key);
    if (!handler.empty() && std::ranges::find(config.handlers, handler) == config.handlers.end()) {
      config.handlers.push_back(handler);
    }
  }
  return config;
}

bool ImportsPath(const ContainerdConfig& config, const std::string& directory,
                 const std::string& path) {
  return std::ranges::any_of(config.imports, [&](const std::string& pattern) {
    // Plain files are looked for beside config.toml by all versions, patterns by late ones only.
    if (!pattern.starts_with('/') && pattern.find('*') != std::string::npos) {
      return false;
    }
    const std::string absolute = pattern.starts_with('/') ? pattern : directory + "/" + pattern;
    return fnmatch(absolute.c_str(), path.c_str(), FNM_PATHNAME | FNM_NOESCAPE) == 0;
  });
}

std::string HandlerToml(int64_t version) {
  return std::string(version <= 2 ? kPrologue2 : kPrologue3) + HandlerTable(version);
}

std::string WithHandler(std::string_view text) {
  std::string out = WithoutHandler(text).value_or(std::string(text));
  const ContainerdConfig config = ReadContainerdConfig(out);
  out += out.empty() || out.ends_with('\n') ? "" : "\n";
  out += kBegin;
  if (config.version <= 2 && config.handlers.empty()) {
    out +=
        "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\n"
        "  # containerd's default, which naming any other handler takes away.\n"
        "  runtime_type = \"io.containerd.runc.v2\"\n\n";
  }
  out += HandlerTable(config.version);
  out += kEnd;
  return out;
}

std::string_view HandlerLines(std::string_view text) {
  // From the end back to its beginning: what stands behind a beginning whose end somebody removed is not ours.
  const size_t end = text.rfind(kEnd);
  const size_t begin = end == std::string_view::npos ? end : text.rfind(kBegin, end);
  if (begin == std::string_view::npos || (begin > 0 && text[begin - 1] != '\n')) {
    return {};
  }
  return text.substr(begin, end + kEnd.size() - begin);
}

std::optional<std::string> WithoutHandler(std::string_view text) {
  const std::string_view lines = HandlerLines(text);
  if (lines.empty()) {
    return std::nullopt;
  }
  std::string out(text);
  out.erase(static_cast<size_t>(lines.data() - text.data()), lines.size());
  return out;
}

}  // namespace wyvern::cli
