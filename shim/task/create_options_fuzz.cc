// Create.options as a client may write them: an Any of any kind, and damaged ones of ours.
#include <cstddef>
#include <cstdint>

#include "base/log.h"
#include "task/options.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace wyvern::shim;
  wyvern::SetLogLevel(wyvern::LogLevel::kError);
  pb::Any any;
  if (any.ParseFromArray(data, static_cast<int>(size))) {
    (void)ParseCreateOptions(any);
  }
  any.set_value(data, size);
  for (const char* const type : {"runtimeoptions.v1.Options", "containerd.runc.v1.Options"}) {
    any.set_type_url(type);
    (void)ParseCreateOptions(any);
  }
  return 0;
}
