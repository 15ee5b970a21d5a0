// An exec by the control socket, over any config.json: a process that the translation for the guest takes or refuses.
// Input:   config.json, a zero byte, the request's bytes.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "control/exec_spec.h"
#include "oci/spec.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  const size_t split = std::min(text.find('\0'), text.size());
  wyvern::control::v1::ExecRequest request;
  if (!request.ParseFromString(text.substr(std::min(split + 1, text.size())))) {
    return 0;
  }
  const auto users = [](const std::string&) -> wyvern::Result<wyvern::runtime::UserFiles> {
    return wyvern::runtime::UserFiles{"root:x:0:0::/:\nweb:x:33:44::/:\n", "log:x:5:web\n"};
  };
  if (const auto process = wyvern::shim::MakeExecSpec(text.substr(0, split), request, users);
      process) {
    std::vector<std::string> notes;
    (void)wyvern::oci::TranslateProcess(*process, request.terminal(), &notes);
  }
  return 0;
}
