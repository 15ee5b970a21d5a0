// task/call_scope.h — what every line that is logged while a call is served names: its container and, if the client traces, its span.
// Source:  W3C Trace Context §3.2 (header traceparent); OpenTelemetry's ttrpc interceptors send it as metadata of that name.
// Trust:   clients write the header; one that is not as the standard says is as if there were none, which is what the standard wants.
// Threads: an object belongs to the thread that made it (base/log.h, LogScope).
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/log.h"
#include "ttrpc/call.h"

namespace wyvern::shim {

struct TraceContext {
  std::string trace_id;  // 32 hexadecimal digits, not all 0
  std::string span_id;   // 16, likewise
};

std::optional<TraceContext> ParseTraceparent(std::string_view header);

class CallScope {
 public:
  CallScope(const std::string& container, const ttrpc::CallContext& call);

 private:
  LogScope container_;
  std::optional<LogScope> trace_;
  std::optional<LogScope> span_;
};

}  // namespace wyvern::shim
