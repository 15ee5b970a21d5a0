// observe/http_request.h — the little of HTTP that a scraper needs: the head of a request.
// Spec:    RFC 9112 §2, §3: a request line, header lines, an empty line. Headers are not looked at: nothing we answer depends on them.
// Trust:   any bytes.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace wyvern::observe {

inline constexpr size_t kMaxRequestHead = 8192;

struct HttpRequest {
  std::string method;
  std::string path;  // without what follows a '?'
};

// True when the head is whole: an empty line ends it.
bool IsWholeHead(std::string_view bytes);

// Nothing: that is no request of HTTP/1.x.
std::optional<HttpRequest> ParseRequestHead(std::string_view head);

// A whole answer, after which the connection ends; `head_only` leaves the body out but not its length.
std::string HttpAnswer(int status, std::string_view reason, std::string_view type,
                       std::string_view body, bool head_only = false);

}  // namespace wyvern::observe
