#include "bootstrap/args.h"

#include <algorithm>
#include <array>
#include <optional>
#include <string_view>

namespace wyvern::shim {

namespace {

struct Flags {
  Args args;
  bool version = false;
  bool info = false;
  bool help = false;
};

// Where the flag's text goes; nullptr for what takes none.
std::string* TextFlag(Flags& flags, std::string_view name) {
  const std::array<std::pair<std::string_view, std::string*>, 6> table{{
      {"namespace", &flags.args.ns},
      {"id", &flags.args.id},
      {"address", &flags.args.address},
      {"publish-binary", &flags.args.publish_binary},
      {"bundle", &flags.args.bundle},
      {"socket", &flags.args.socket},
  }};
  const auto* const found =
      std::find_if(table.begin(), table.end(), [&](const auto& row) { return row.first == name; });
  return found == table.end() ? nullptr : found->second;
}

bool* BoolFlag(Flags& flags, std::string_view name) {
  const std::array<std::pair<std::string_view, bool*>, 6> table{{
      {"debug", &flags.args.debug},
      {"v", &flags.version},
      {"version", &flags.version},
      {"info", &flags.info},
      {"h", &flags.help},
      {"help", &flags.help},
  }};
  const auto* const found =
      std::find_if(table.begin(), table.end(), [&](const auto& row) { return row.first == name; });
  return found == table.end() ? nullptr : found->second;
}

// The words Go's flag package takes, as containerd's own shims do.
std::optional<bool> ParseBool(std::string_view text) {
  for (const std::string_view yes : {"1", "t", "T", "true", "TRUE", "True"}) {
    if (text == yes) {
      return true;
    }
  }
  for (const std::string_view no : {"0", "f", "F", "false", "FALSE", "False"}) {
    if (text == no) {
      return false;
    }
  }
  return std::nullopt;
}

// The ids become parts of hashed names and of messages, never of paths: what is refused is what no containerd sends.
Result<> CheckIdentifier(const char* flag, const std::string& value) {
  if (value.empty()) {
    return Fail(Code::kInvalidArgument, std::string("-") + flag + " is missing");
  }
  const bool bad = std::any_of(value.begin(), value.end(), [](char c) {
    return c == '/' || static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
  });
  if (bad || value == "." || value == ".." || value.size() > 255) {
    return Fail(Code::kInvalidArgument, std::string("-") + flag + " is not a valid identifier");
  }
  return {};
}

Result<Action> ParseAction(const std::string& word) {
  if (word == "start") {
    return Action::kStart;
  }
  if (word == "delete") {
    return Action::kDelete;
  }
  if (word == "serve") {
    return Action::kServe;
  }
  return Fail(Code::kInvalidArgument, "unknown action \"" + word + "\"");
}

}  // namespace

Result<Args> ParseArgs(std::span<const std::string> argv) {
  Flags flags;
  bool action_seen = false;
  for (size_t i = 0; i < argv.size(); ++i) {
    const std::string& word = argv[i];
    if (word.size() < 2 || word[0] != '-') {
      if (action_seen) {
        return Fail(Code::kInvalidArgument, "more than one action: \"" + word + "\"");
      }
      WV_TRY(flags.args.action, ParseAction(word));
      action_seen = true;
      continue;
    }
    std::string name = word.substr(word[1] == '-' ? 2 : 1);
    std::optional<std::string> value;
    if (const size_t equals = name.find('='); equals != std::string::npos) {
      value = name.substr(equals + 1);
      name.resize(equals);
    }
    if (bool* const flag = BoolFlag(flags, name); flag != nullptr) {
      const std::optional<bool> on = value ? ParseBool(*value) : true;
      if (!on) {
        return Fail(Code::kInvalidArgument, "-" + name + " takes true or false");
      }
      *flag = *on;
      continue;
    }
    std::string* const text = TextFlag(flags, name);
    if (text == nullptr) {
      return Fail(Code::kInvalidArgument, "unknown flag -" + name);
    }
    if (!value) {
      if (i + 1 == argv.size()) {
        return Fail(Code::kInvalidArgument, "-" + name + " needs a value");
      }
      value = argv[++i];
    }
    *text = *std::move(value);
  }
  if (flags.help || flags.version || flags.info) {
    flags.args.action = flags.help      ? Action::kHelp
                        : flags.version ? Action::kVersion
                                        : Action::kInfo;
    return std::move(flags.args);
  }
  WV_TRY_VOID(CheckIdentifier("namespace", flags.args.ns));
  WV_TRY_VOID(CheckIdentifier("id", flags.args.id));
  return std::move(flags.args);
}

std::string Usage() {
  return "Runs containers in microVMs for containerd; started by containerd, not by hand.\n"
         "  -namespace NS -id ID -address SOCKET [-publish-binary PATH] [-debug] start\n"
         "  -namespace NS -id ID -address SOCKET [-bundle DIR] delete\n"
         "  -v       version\n"
         "  -info    what the runtime can do, as containerd.types.RuntimeInfo\n"
         "Use it as:  ctr run --runtime io.containerd.wyvern.v2 IMAGE ID\n";
}

}  // namespace wyvern::shim
