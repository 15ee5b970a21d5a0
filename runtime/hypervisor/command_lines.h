// hypervisor/command_lines.h — what the guest's kernel and the two processes of a machine are told: words of MachineOptions, nothing else.
#pragma once

#include <string>
#include <vector>

#include "hypervisor/machine.h"

namespace wyvern::runtime {

// All of it: the VMM adds nothing. The options' own words come last, so that they win.
std::string KernelCommandLine(const MachineOptions& options);

// The program first.
std::vector<std::string> VmmArguments(const MachineOptions& options);
std::vector<std::string> FileServerArguments(const MachineOptions& options);

}  // namespace wyvern::runtime
