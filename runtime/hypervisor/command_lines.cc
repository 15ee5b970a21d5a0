#include "hypervisor/command_lines.h"

#include <fmt/format.h>

namespace wyvern::runtime {

// oops=panic: an imported kernel would limp on. lastbus=0: ACPI names the one host bridge, and the search for others on x86 is 448 port
// accesses; elsewhere the kernel does not know the option. rootwait=10: libnvdimm may register the root after the kernel looks for it
// the first time; with it there the word costs nothing, without it the guest panics after these seconds instead of waiting for ever.
std::string KernelCommandLine(const MachineOptions& options) {
  std::string line =
      "console=ttyS0 quiet panic=1 oops=panic pci=lastbus=0 root=/dev/pmem0 rootfstype=erofs "
      "rootflags=dax=always ro rootwait=10 init=/sbin/wyvern-agent";
  return options.extra_cmdline.empty() ? line : line + " " + options.extra_cmdline;
}

std::vector<std::string> VmmArguments(const MachineOptions& options) {
  return {options.vmm_binary, "--id", options.id};
}

std::vector<std::string> FileServerArguments(const MachineOptions& options) {
  return {options.fs_binary, "--tag", options.share_tag, "--queues",
          fmt::format("{}", options.share_queues)};
}

}  // namespace wyvern::runtime
