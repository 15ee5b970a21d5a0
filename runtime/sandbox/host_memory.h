// sandbox/host_memory.h — what the memory of a guest needs of the host: its limit, and its huge pages.
// Units:   bytes.
// Threads: any.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/error.h"
#include "config/config.h"
#include "hypervisor/machine.h"

namespace wyvern::runtime {

// memory.max of the cgroup of VMM and file server, so that a guest that uses all of its memory never meets the host's out-of-memory killer:
// guest memory, `overhead` for the processes, and what the host's kernel needs to map guest memory, which it charges there, too. Of 4 KiB
// pages that is 8 bytes for each page in three page tables (KVM's, VMM's, file server's) and 9 in the memfd's index: 33 of 4096 bytes, and as
// much again for what is not full. 256 MiB need 4 MiB so, 32 GiB need 512.
uint64_t HostMemoryLimit(uint64_t guest_memory, uint64_t overhead);

RamPages RamPagesOf(Config::Memory::HugePages pages);

// `memory` as whole pages of that kind: rounded up.
uint64_t RoundToPages(uint64_t memory, RamPages pages);

// Before a machine is made, for a message that tells what to do: the VMM sees no /sys, and that it is told "no" afterwards can happen still.
// FAILED_PRECONDITION: the host has none of that size; RESOURCE_EXHAUSTED: not enough are free. `sys`: where sysfs is mounted.
Result<> CheckHugePages(RamPages pages, uint64_t memory, const std::string& sys = "/sys");

// Whether a guest's console ends with the panic of a kernel that had no memory left and nothing to kill. The guest's own words.
bool EndedForWantOfMemory(std::string_view console);

}  // namespace wyvern::runtime
