#include "task/call_scope.h"

#include <algorithm>

namespace wyvern::shim {

namespace {

// "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
constexpr size_t kTraceAt = 3;
constexpr size_t kTraceSize = 32;
constexpr size_t kSpanAt = 36;
constexpr size_t kSpanSize = 16;
constexpr size_t kSize = 55;

bool IsHex(std::string_view text) {
  return text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

bool IsZero(std::string_view text) {
  return text.find_first_not_of('0') == std::string_view::npos;
}

}  // namespace

std::optional<TraceContext> ParseTraceparent(std::string_view header) {
  if (header.size() < kSize || header[2] != '-' || header[kSpanAt - 1] != '-' ||
      header[kSpanAt + kSpanSize] != '-') {
    return std::nullopt;
  }
  const std::string_view version = header.substr(0, 2);
  const std::string_view trace = header.substr(kTraceAt, kTraceSize);
  const std::string_view span = header.substr(kSpanAt, kSpanSize);
  // Later versions may add fields behind these.
  const bool length_fits = header.size() == kSize || (version != "00" && header[kSize] == '-');
  if (!length_fits || version == "ff" || !IsHex(version) || !IsHex(trace) || !IsHex(span) ||
      !IsHex(header.substr(kSize - 2, 2)) || IsZero(trace) || IsZero(span)) {
    return std::nullopt;
  }
  return TraceContext{std::string(trace), std::string(span)};
}

CallScope::CallScope(const std::string& container, const ttrpc::CallContext& call)
    : container_("container", container) {
  if (const auto trace = ParseTraceparent(call.MetadataValue("traceparent"))) {
    trace_.emplace("trace_id", trace->trace_id);
    span_.emplace("span_id", trace->span_id);
  }
}

}  // namespace wyvern::shim
