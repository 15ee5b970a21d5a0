// oci/seccomp.h — makes a container's seccomp profile deny AF_VSOCK, whatever it says otherwise. Internal to oci/.
// Why:     vsock has no namespaces in the guest; the agent listens there. No container may even have such a socket.
// How:     the kernel takes `int family`, seccomp compares 64 bits: a "not equal 40" rule lets 0x100000028 through. So allowing rules for
//          socket() become "family < 40" and one "family == n" for each of 41..63; everything else falls to an explicit EAFNOSUPPORT or the
//          profile's default. socketcall(2), whose arguments are in memory, is a call of 32-bit x86 only (of what we run on), and no
//          profile that a container gets names that architecture: its calls end the process.
// Known:   io_uring's IORING_OP_SOCKET passes no seccomp; the host refuses every connection the guest starts, and the guest kernel has no
//          vsock loopback, so such a socket reaches nobody.
#pragma once

#include "base/error.h"
#include "oci/json.h"

namespace wyvern::oci {

inline constexpr int kAfVsock = 40;

// `linux_section`: the pruned "linux" object; gets a "seccomp" member if it has none. `arch`: x86_64, aarch64 or riscv64.
Result<> DenyVsock(Json& linux_section, std::string_view arch);

}  // namespace wyvern::oci
