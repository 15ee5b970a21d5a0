// Where a client wants its output: an absolute path and arguments without zero bytes, or a refusal.
#include <cstddef>
#include <cstdint>
#include <string>

#include "base/check.h"
#include "stdio/target.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace wyvern::shim;
  const auto target = ParseTarget(std::string(reinterpret_cast<const char*>(data), size));
  if (!target) {
    WV_CHECK(target.error().code() == wyvern::Code::kInvalidArgument);
    return 0;
  }
  WV_CHECK(target->kind == TargetKind::kNone || !target->path.empty());
  WV_CHECK(target->path.find('\0') == std::string::npos);
  WV_CHECK(target->arguments.size() % 2 == 0);
  WV_CHECK((target->kind == TargetKind::kStream) == !target->stream.empty());
  WV_CHECK(target->stream.find('\0') == std::string::npos);
  for (const std::string& argument : target->arguments) {
    WV_CHECK(argument.find('\0') == std::string::npos);
  }
  return 0;
}
