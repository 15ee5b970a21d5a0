// api/vmm_server.h — the gRPC service wyvern.vmm.v1.Vmm on an inherited socket, and the donation socket beside it.
// Threads: Serve blocks its caller (donations are served there); gRPC makes its own threads when it starts, so the control
//          filter must be in force before.
// Errors:  a request's Error becomes its status with the same code and message.
#pragma once

#include <memory>
#include <string>

#include "api/virtual_machine.h"
#include "base/error.h"
#include "base/fd.h"

namespace wyvern::api {

struct VmmServerOptions {
  UniqueFd grpc_socket;      // connected SOCK_STREAM
  UniqueFd donation_socket;  // connected SOCK_SEQPACKET
  std::string version;
};

// Serves until the client hangs up or calls Shutdown. The machine is the caller's.
Result<> ServeVmm(VmmServerOptions options, VirtualMachine& machine);

}  // namespace wyvern::api
