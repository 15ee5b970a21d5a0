#include "ttrpc/protobuf_log.h"

#include <google/protobuf/stubs/common.h>
#include <google/protobuf/stubs/logging.h>

#include <string>

#include "base/log.h"

namespace wyvern::ttrpc {

void LimitProtobufLog() {
  google::protobuf::SetLogHandler(
      [](google::protobuf::LogLevel /*level*/, const char* /*file*/, int /*line*/,
         const std::string& message) { WV_WARN_LIMITED("protobuf: {}", message); });
}

}  // namespace wyvern::ttrpc
