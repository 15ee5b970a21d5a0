#include "bootstrap/dialect.h"

#include "proto/containerd_bootstrap.pb.h"

namespace wyvern::shim {

namespace {

namespace boot = containerd::runtime::bootstrap::v1;

constexpr int32_t kLogLevelDebug = -4;
constexpr int32_t kTaskVersion = 3;

}  // namespace

StartInput DecodeStartInput(std::string_view bytes, std::string_view id, std::string_view ns) {
  StartInput input;
  boot::BootstrapParams params;
  if (bytes.empty() || !params.ParseFromString(std::string(bytes)) || params.instance_id() != id ||
      params.namespace_() != ns) {
    input.options = bytes;
    return input;
  }
  input.dialect = Dialect::kBootstrap;
  input.debug = params.log_level() <= kLogLevelDebug;
  input.ttrpc_address = params.containerd_ttrpc_address();
  input.socket_dir = params.socket_dir();
  if (params.extensions_size() > 0) {
    input.options = params.extensions(0).value().SerializeAsString();
  }
  return input;
}

std::string EncodeStartAnswer(Dialect dialect, const std::string& address) {
  if (dialect == Dialect::kPlain) {
    return address;
  }
  boot::BootstrapResult result;
  result.set_version(kTaskVersion);
  result.set_address(address);
  result.set_protocol("ttrpc");
  return result.SerializeAsString();
}

}  // namespace wyvern::shim
