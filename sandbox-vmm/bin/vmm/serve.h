// vmm/serve.h — wyvern-vmm's order of confinement around the API server; main and the jail test run the same code.
#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>

#include "api/virtual_machine.h"
#include "base/error.h"
#include "base/fd.h"

namespace wyvern::vmm {

struct ServeOptions {
  UniqueFd grpc_socket;
  UniqueFd donation_socket;
  uid_t uid = 0;
  gid_t gid = 0;
  // Made after isolation and before the control filter: what needs calls that the filter refuses (io_uring rings, threads' signal
  // handlers) happens here.
  std::function<Result<std::unique_ptr<api::VirtualMachine>>()> make_machine;
};

// Isolates the process, installs the control filter, serves until the client is gone. Single-threaded when called.
Result<> ServeJailed(ServeOptions options);

}  // namespace wyvern::vmm
