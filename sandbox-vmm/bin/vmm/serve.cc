#include "vmm/serve.h"

#include "api/vmm_server.h"
#include "jail/filter.h"
#include "jail/isolate.h"
#include "jail/violation.h"
#include "vmm/version.h"

namespace wyvern::vmm {

Result<> ServeJailed(ServeOptions options) {
  WV_TRY_VOID_CONTEXT(jail::IsolateProcess({.uid = options.uid, .gid = options.gid}), "isolate");
  WV_TRY(const std::unique_ptr<api::VirtualMachine> machine, options.make_machine());
  WV_TRY_VOID(jail::ReportViolations());
  WV_TRY_VOID(jail::InstallFilter(jail::ThreadKind::kControl));
  return api::ServeVmm({.grpc_socket = std::move(options.grpc_socket),
                        .donation_socket = std::move(options.donation_socket),
                        .version = kVersion},
                       *machine);
}

}  // namespace wyvern::vmm
