#include "observe/http_request.h"

#include <fmt/format.h>

#include <algorithm>

namespace wyvern::observe {

namespace {

// RFC 9110 §5.6.2, less the odd ones.
bool IsMethod(std::string_view word) {
  return !word.empty() && word.size() <= 16 &&
         std::ranges::all_of(word, [](char c) { return c >= 'A' && c <= 'Z'; });
}

bool IsTarget(std::string_view word) {
  return word.starts_with('/') &&
         std::ranges::all_of(word, [](char c) { return c > ' ' && c <= '~'; });
}

bool IsVersion(std::string_view word) {
  return word.size() == 8 && word.starts_with("HTTP/1.") && word[7] >= '0' && word[7] <= '9';
}

}  // namespace

bool IsWholeHead(std::string_view bytes) {
  // A lone LF may end a line, too (RFC 9112 §2.2).
  return bytes.find("\n\r\n") != std::string_view::npos ||
         bytes.find("\n\n") != std::string_view::npos;
}

std::optional<HttpRequest> ParseRequestHead(std::string_view head) {
  if (head.size() > kMaxRequestHead) {
    return std::nullopt;
  }
  std::string_view line = head.substr(0, head.find('\n'));
  if (line.ends_with('\r')) {
    line.remove_suffix(1);
  }
  const size_t first = line.find(' ');
  const size_t last = line.rfind(' ');
  if (first == std::string_view::npos || first == last) {
    return std::nullopt;
  }
  const std::string_view method = line.substr(0, first);
  const std::string_view target = line.substr(first + 1, last - first - 1);
  if (!IsMethod(method) || !IsTarget(target) || !IsVersion(line.substr(last + 1))) {
    return std::nullopt;
  }
  return HttpRequest{std::string(method), std::string(target.substr(0, target.find('?')))};
}

std::string HttpAnswer(int status, std::string_view reason, std::string_view type,
                       std::string_view body, bool head_only) {
  return fmt::format(
             "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: "
             "close\r\n\r\n",
             status, reason, type, body.size()) +
         std::string(head_only ? std::string_view() : body);
}

}  // namespace wyvern::observe
