// install/containerd_config.h — containerd's config.toml: what matters of it to us, and our handler put into it and taken out.
// Spec:    TOML 1.0.0, read as far as statements go; containerd itself says whether all of it is right (`containerd config dump`).
//          containerd's configuration versions 2 (1.6, 1.7, and 2.x still), 3 and later (2.x).
// Shape:   what we put in stands between two lines of comment at the end, so that taking it out leaves what was there.
// Trust:   the administrator's file; any bytes are read without an error, and what is no statement is no statement.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace wyvern::cli {

struct TomlStatement {
  int line = 0;  // from 1, of its first character
  std::string
      section;  // that it stands in, its parts joined by dots without quotes; of a header: its own name
  std::string key;           // the same; empty: this is a header
  std::string_view value{};  // as written, without a comment at its end
};

// Headers and assignments, in order. Views are into `text`.
std::vector<TomlStatement> TomlStatements(std::string_view text);
// The strings of a value as written: of `["a", 'b']` a and b, of `"a"` a. Escapes stay as they are written.
std::vector<std::string> TomlStrings(std::string_view value);

struct ContainerdConfig {
  int64_t version = 1;               // where the file says none, as containerd has it
  std::vector<std::string> imports;  // as written
  std::vector<std::string>
      handlers;               // of the CRI plugin: what has a section containerd.runtimes.NAME
  bool cri_disabled = false;  // disabled_plugins names it: no pods here
};

ContainerdConfig ReadContainerdConfig(std::string_view text);
// True if a file at `path` would be imported by a config.toml in `directory`.
bool ImportsPath(const ContainerdConfig& config, const std::string& directory,
                 const std::string& path);

// The text of deploy/containerd/wyvern-v<version>.toml; version 2, or 3 for all later ones.
std::string HandlerToml(int64_t version);
// `text` with our handler at its end, or with ours renewed. Where it defines no handler at all, runc is defined, too: containerd 1.x takes the
// handlers named here in place of its own default.
std::string WithHandler(std::string_view text);
// What WithHandler added, with its two lines of comment; empty if that is not there.
std::string_view HandlerLines(std::string_view text);
// `text` without what WithHandler added; nothing if that is not there.
std::optional<std::string> WithoutHandler(std::string_view text);

}  // namespace wyvern::cli
