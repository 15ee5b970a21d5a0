// agent/guest_usage.h — what the guest as a whole uses, from the kernel's files.
// Spec:    proc(5): meminfo, stat, vmstat; kernel Documentation/accounting/psi.rst.
// Errors:  none: a kernel without a file (or without pressure stall information) leaves its figures at 0.
// Threads: any; a few small files are read.
#pragma once

#include "agent/kernel_files.h"
#include "proto/agent.pb.h"

namespace wyvern::agent {

v1::GuestUsageResponse ReadGuestUsage(const KernelFiles& kernel);

}  // namespace wyvern::agent
