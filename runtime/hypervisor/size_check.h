// hypervisor/size_check.h — sizes that a VMM names, held against what its machine was made with.
// Errors:  INTERNAL: no VMM of ours says that.
// Trust:   a guest may have taken the VMM over. What it says of its threads is what somebody pins next.
// Threads: any.
#pragma once

#include <sys/types.h>

#include <cstdint>

#include "base/error.h"
#include "hypervisor/machine.h"

namespace wyvern::runtime {

Result<> CheckVcpus(uint64_t vcpus, const MachineOptions& options);
Result<> CheckMemory(uint64_t bytes, const MachineOptions& options);
// Both, and that each thread is one of the process `vmm`, and each vCPU one of the machine's, named once.
Result<> CheckSize(const MachineSize& size, const MachineOptions& options, pid_t vmm);

}  // namespace wyvern::runtime
