// CreateSandbox as a client may send it, and a PodSandboxConfig of any bytes: a bundle that the runtime reads, or a refusal.
#include <google/protobuf/stubs/logging.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "base/check.h"
#include "sandbox_api/pod_bundle.h"

namespace {

namespace shim = wyvern::shim;

void Describe(const shim::sandbox_pb::CreateSandboxRequest& request) {
  const auto pod = shim::DescribePod(request, {"host", "127.0.0.1 localhost\n", ""});
  if (!pod) {
    WV_CHECK(pod.error().code() == wyvern::Code::kInvalidArgument);
    return;
  }
  WV_CHECK(pod->config_json.starts_with("{\"annotations\":{"));
  WV_CHECK(pod->config_json.find("\"io.kubernetes.cri.container-type\":\"sandbox\"") !=
           std::string::npos);
  WV_CHECK(pod->hostname.find('\n') == pod->hostname.size() - 1);
  // Lines of resolv.conf that begin with nothing but our own words.
  for (size_t at = 0; at < pod->resolv_conf.size(); at = pod->resolv_conf.find('\n', at) + 1) {
    const auto line = std::string_view(pod->resolv_conf).substr(at);
    WV_CHECK(line.starts_with("nameserver ") || line.starts_with("search ") ||
             line.starts_with("options "));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const google::protobuf::LogSilencer silent;  // of bytes that are no UTF-8
  shim::sandbox_pb::CreateSandboxRequest request;
  if (request.ParseFromArray(data, static_cast<int>(size))) {
    Describe(request);
  }
  request.Clear();
  request.set_sandbox_id("abc");
  request.set_bundle_path("/b");
  request.mutable_options()->set_type_url("runtime.v1.PodSandboxConfig");
  request.mutable_options()->set_value(data, size);
  Describe(request);
  return 0;
}
