#include "stdio/target.h"

#include <algorithm>
#include <optional>
#include <string_view>

namespace wyvern::shim {

namespace {

std::optional<unsigned> HexDigit(char c) {
  if (c >= '0' && c <= '9') {
    return static_cast<unsigned>(c - '0');
  }
  const char lower = static_cast<char>(c | 0x20);
  if (lower >= 'a' && lower <= 'f') {
    return static_cast<unsigned>(lower - 'a' + 10);
  }
  return std::nullopt;
}

// RFC 3986 §2.1; in a query '+' is a space, as Go reads it.
std::optional<std::string> Unescape(std::string_view text, bool query) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '+' && query) {
      out.push_back(' ');
      continue;
    }
    if (text[i] != '%') {
      out.push_back(text[i]);
      continue;
    }
    if (text.size() - i < 3) {
      return std::nullopt;
    }
    const auto high = HexDigit(text[i + 1]);
    const auto low = HexDigit(text[i + 2]);
    // A zero byte would end a path or a program's argument early.
    if (!high || !low || (*high == 0 && *low == 0)) {
      return std::nullopt;
    }
    out.push_back(static_cast<char>(*high << 4U | *low));
    i += 2;
  }
  return out;
}

// "a=1&b" → a 1 b. A repeated key counts once, with its first value.
std::optional<std::vector<std::string>> ParseQuery(std::string_view query) {
  std::vector<std::string> arguments;
  std::vector<std::string> seen;
  while (!query.empty()) {
    const size_t end = query.find('&');
    const std::string_view pair = query.substr(0, end);
    query = end == std::string_view::npos ? std::string_view() : query.substr(end + 1);
    if (pair.empty()) {
      continue;
    }
    const size_t equals = pair.find('=');
    auto key = Unescape(pair.substr(0, equals), true);
    auto value = equals == std::string_view::npos ? std::optional<std::string>(std::string())
                                                  : Unescape(pair.substr(equals + 1), true);
    if (!key || !value) {
      return std::nullopt;
    }
    if (std::find(seen.begin(), seen.end(), *key) != seen.end()) {
      continue;
    }
    seen.push_back(*key);
    arguments.push_back(*std::move(key));
    arguments.push_back(*std::move(value));
  }
  return arguments;
}

// Of k v k v …; empty where there is none.
std::string ValueOf(const std::vector<std::string>& query, std::string_view key) {
  for (size_t i = 0; i + 1 < query.size(); i += 2) {
    if (query[i] == key) {
      return query[i + 1];
    }
  }
  return {};
}

}  // namespace

Result<Target> ParseTarget(const std::string& uri) {
  Target target;
  if (uri.empty()) {
    return target;
  }
  const auto invalid = [&uri](const char* why) {
    return Fail(Code::kInvalidArgument, "stdio \"" + uri + "\": " + why);
  };
  if (uri.find('\0') != std::string::npos) {
    return Fail(Code::kInvalidArgument, "stdio path with a zero byte");
  }
  const size_t scheme_end = uri.find("://");
  if (scheme_end == std::string::npos) {
    target.kind = TargetKind::kFifo;
    target.path = uri;
    return target;
  }
  const std::string_view scheme = std::string_view(uri).substr(0, scheme_end);
  std::string_view rest = std::string_view(uri).substr(scheme_end + 3);
  if (scheme == "fifo") {
    target.kind = TargetKind::kFifo;
  } else if (scheme == "file") {
    target.kind = TargetKind::kFile;
  } else if (scheme == "binary" || scheme == "binary-v2") {
    target.kind = TargetKind::kBinary;
    target.must_say_ready = scheme == "binary-v2";
  } else if (scheme == "ttrpc+unix") {
    target.kind = TargetKind::kStream;
  } else {
    return invalid(
        "this scheme is not supported (a path, fifo://, file://, binary://, ttrpc+unix:// are)");
  }
  rest = rest.substr(0, rest.find('#'));
  const size_t question = rest.find('?');
  const auto path = Unescape(rest.substr(0, question), false);
  if (!path || path->empty() || path->front() != '/') {
    return invalid("an absolute path must follow the scheme");
  }
  target.path = *path;
  std::vector<std::string> query;
  if (question != std::string_view::npos) {
    auto parsed = ParseQuery(rest.substr(question + 1));
    if (!parsed && (target.kind == TargetKind::kBinary || target.kind == TargetKind::kStream)) {
      return invalid("the query is not percent-encoded properly");
    }
    query = std::move(parsed).value_or(std::vector<std::string>());
  }
  if (target.kind == TargetKind::kBinary) {
    target.arguments = std::move(query);
  } else if (target.kind == TargetKind::kStream) {
    target.stream = ValueOf(query, "streaming_id");
    if (target.stream.empty()) {
      return invalid("streaming_id is missing");
    }
  }
  return target;
}

}  // namespace wyvern::shim
