#include "hypervisor/command_lines.h"

#include <fmt/format.h>

namespace wyvern::runtime {

// oops=panic: an imported kernel would limp on. lastbus=0: ACPI names the one host bridge, and the search for others on x86 is 448 port
// accesses; elsewhere the kernel does not know the option. rootwait=10: libnvdimm may register the root after the kernel looks for it
// the first time; with it there the word costs nothing, without it the guest panics after these seconds instead of waiting for ever.
// maxcpus: other vCPUs that the guest may have are in its tables, too, but nobody runs them before they are asked for.
std::string KernelCommandLine(const MachineOptions& options) {
  std::string line = fmt::format(
      "console=ttyS0 quiet panic=1 oops=panic pci=lastbus=0 root=/dev/pmem0 rootfstype=erofs "
      "rootflags=dax=always ro rootwait=10 dummy.numdummies=0 maxcpus={} init=/sbin/wyvern-agent "
      "wyvern.log={}",
      options.vcpus, LogLevelName(options.log_level));
  if (options.allow.has_value()) {
    line += " wyvern.allow=" + *options.allow;
  }
  return options.extra_cmdline.empty() ? line : line + " " + options.extra_cmdline;
}

std::vector<std::string> VmmArguments(const MachineOptions& options) {
  return {options.vmm_binary, "--id", options.id, "--log-level",
          std::string(LogLevelName(options.log_level))};
}

std::vector<std::string> FileServerArguments(const MachineOptions& options) {
  return {options.fs_binary,
          "--id",
          options.id,
          "--tag",
          options.share_tag,
          "--queues",
          fmt::format("{}", options.share_queues),
          "--log-level",
          std::string(LogLevelName(options.log_level))};
}

}  // namespace wyvern::runtime
