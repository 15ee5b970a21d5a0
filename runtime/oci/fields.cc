#include "oci/fields.h"

#include <unordered_map>

namespace wyvern::oci {
namespace {

using enum FieldKind;
using enum Handling;

// clang-format off
constexpr Field kFields[] = {
    {"ociVersion", kString, kTranslated, "the guest gets 1.0.2, what its crun speaks"},
    {"process", kObject, kGuest, ""},
    {"process.terminal", kBool, kTranslated, "what the client asked for decides; the agent makes the pty"},
    {"process.consoleSize", kObject, kTranslated, "first size of the terminal"},
    {"process.consoleSize.height", kU32, kTranslated, "rows"},
    {"process.consoleSize.width", kU32, kTranslated, "columns"},
    {"process.user", kObject, kGuest, ""},
    {"process.user.uid", kU32, kGuest, ""},
    {"process.user.gid", kU32, kGuest, ""},
    {"process.user.umask", kU32, kGuest, ""},
    {"process.user.additionalGids", kUints, kGuest, ""},
    {"process.user.username", kString, kDropped, "for Windows only"},
    {"process.args", kStrings, kGuest, ""},
    {"process.commandLine", kString, kDropped, "for Windows only"},
    {"process.env", kStrings, kGuest, ""},
    {"process.cwd", kString, kGuest, ""},
    {"process.capabilities", kObject, kGuest, ""},
    {"process.capabilities.bounding", kStrings, kGuest, ""},
    {"process.capabilities.effective", kStrings, kGuest, ""},
    {"process.capabilities.inheritable", kStrings, kGuest, ""},
    {"process.capabilities.permitted", kStrings, kGuest, ""},
    {"process.capabilities.ambient", kStrings, kGuest, ""},
    {"process.rlimits", kArray, kGuest, ""},
    {"process.rlimits[].type", kString, kGuest, ""},
    {"process.rlimits[].hard", kU64, kGuest, ""},
    {"process.rlimits[].soft", kU64, kGuest, ""},
    {"process.noNewPrivileges", kBool, kGuest, ""},
    {"process.apparmorProfile", kString, kDropped, "the guest kernel has no AppArmor; the virtual machine confines"},
    {"process.oomScoreAdj", kI32, kGuest, "for VMM and file server, too: the lowest of the sandbox's containers, a pod's pause aside; 0 where none says"},
    {"process.scheduler", kObject, kDropped, "crun 1.8 in the guest does not know it"},
    {"process.scheduler.policy", kString, kDropped, "crun 1.8 in the guest does not know it"},
    {"process.scheduler.nice", kI32, kDropped, "crun 1.8 in the guest does not know it"},
    {"process.scheduler.priority", kI32, kDropped, "crun 1.8 in the guest does not know it"},
    {"process.scheduler.flags", kStrings, kDropped, "crun 1.8 in the guest does not know it"},
    {"process.scheduler.runtime", kU64, kDropped, "crun 1.8 in the guest does not know it"},
    {"process.scheduler.deadline", kU64, kDropped, "crun 1.8 in the guest does not know it"},
    {"process.scheduler.period", kU64, kDropped, "crun 1.8 in the guest does not know it"},
    {"process.selinuxLabel", kString, kDropped, "the guest kernel has no SELinux; the virtual machine confines"},
    {"process.ioPriority", kObject, kDropped, "crun 1.8 in the guest does not know it"},
    {"process.ioPriority.class", kString, kDropped, "crun 1.8 in the guest does not know it"},
    {"process.ioPriority.priority", kI32, kDropped, "crun 1.8 in the guest does not know it"},
    {"process.execCPUAffinity", kObject, kDropped, "host CPU numbers mean nothing in the guest"},
    {"process.execCPUAffinity.initial", kString, kDropped, "host CPU numbers mean nothing in the guest"},
    {"process.execCPUAffinity.final", kString, kDropped, "host CPU numbers mean nothing in the guest"},
    {"root", kObject, kTranslated, ""},
    {"root.path", kString, kTranslated, "cloned to the file server; the guest sees it below /run/wyvern/share"},
    {"root.readonly", kBool, kGuest, ""},
    {"hostname", kString, kGuest, "also the hostname of the virtual machine"},
    {"domainname", kString, kGuest, ""},
    {"mounts", kArray, kTranslated, ""},
    {"mounts[].destination", kString, kGuest, ""},
    {"mounts[].type", kString, kTranslated, "bind, rbind, proc, sysfs, tmpfs, mqueue, devpts, cgroup, cgroup2; ext2, ext3, ext4, xfs, erofs and squashfs become disks of the guest; any other type is refused"},
    {"mounts[].source", kString, kTranslated, "bind: one export of the file server for each distinct source; file systems of disks: one disk, of a block device or an image file, whether or not an option says loop"},
    {"mounts[].options", kStrings, kGuest, "bind: idmap and ridmap (with all below) as uidMappings, by linux.uidMappings where there are none; shared and rshared are refused, what a guest mounts cannot appear on the host; read-only is so with all below"},
    {"mounts[].uidMappings", kArray, kTranslated, "of a bind: the host maps the ids of its export, crun those of what is in the guest's memory; others are refused"},
    {"mounts[].uidMappings[].containerID", kU32, kTranslated, ""},
    {"mounts[].uidMappings[].hostID", kU32, kTranslated, ""},
    {"mounts[].uidMappings[].size", kU32, kTranslated, ""},
    {"mounts[].gidMappings", kArray, kTranslated, "of a bind: the host maps the ids of its export, crun those of what is in the guest's memory; others are refused"},
    {"mounts[].gidMappings[].containerID", kU32, kTranslated, ""},
    {"mounts[].gidMappings[].hostID", kU32, kTranslated, ""},
    {"mounts[].gidMappings[].size", kU32, kTranslated, ""},
    {"hooks", kObject, kTranslated, ""},
    {"hooks.prestart", kArray, kHost, "run on the host at create, before the guest makes the container"},
    {"hooks.prestart[].path", kString, kHost, "run on the host at create, before the guest makes the container"},
    {"hooks.prestart[].args", kStrings, kHost, "run on the host at create, before the guest makes the container"},
    {"hooks.prestart[].env", kStrings, kHost, "run on the host at create, before the guest makes the container"},
    {"hooks.prestart[].timeout", kI32, kHost, "run on the host at create, before the guest makes the container"},
    {"hooks.createRuntime", kArray, kHost, "run on the host at create, before the guest makes the container"},
    {"hooks.createRuntime[].path", kString, kHost, "run on the host at create, before the guest makes the container"},
    {"hooks.createRuntime[].args", kStrings, kHost, "run on the host at create, before the guest makes the container"},
    {"hooks.createRuntime[].env", kStrings, kHost, "run on the host at create, before the guest makes the container"},
    {"hooks.createRuntime[].timeout", kI32, kHost, "run on the host at create, before the guest makes the container"},
    {"hooks.createContainer", kArray, kHost, "run on the host in the network namespace of the container; refused for a root on a disk"},
    {"hooks.createContainer[].path", kString, kHost, "run on the host in the network namespace of the container; refused for a root on a disk"},
    {"hooks.createContainer[].args", kStrings, kHost, "run on the host in the network namespace of the container; refused for a root on a disk"},
    {"hooks.createContainer[].env", kStrings, kHost, "run on the host in the network namespace of the container; refused for a root on a disk"},
    {"hooks.createContainer[].timeout", kI32, kHost, "run on the host in the network namespace of the container; refused for a root on a disk"},
    {"hooks.startContainer", kArray, kGuest, "run by crun in the guest; the path is looked up in the container"},
    {"hooks.startContainer[].path", kString, kGuest, "run by crun in the guest; the path is looked up in the container"},
    {"hooks.startContainer[].args", kStrings, kGuest, "run by crun in the guest; the path is looked up in the container"},
    {"hooks.startContainer[].env", kStrings, kGuest, "run by crun in the guest; the path is looked up in the container"},
    {"hooks.startContainer[].timeout", kI32, kGuest, "run by crun in the guest; the path is looked up in the container"},
    {"hooks.poststart", kArray, kHost, "run on the host after start; one that fails ends the container"},
    {"hooks.poststart[].path", kString, kHost, "run on the host after start; one that fails ends the container"},
    {"hooks.poststart[].args", kStrings, kHost, "run on the host after start; one that fails ends the container"},
    {"hooks.poststart[].env", kStrings, kHost, "run on the host after start; one that fails ends the container"},
    {"hooks.poststart[].timeout", kI32, kHost, "run on the host after start; one that fails ends the container"},
    {"hooks.poststop", kArray, kHost, "run on the host after delete, all of them; failures are logged"},
    {"hooks.poststop[].path", kString, kHost, "run on the host after delete, all of them; failures are logged"},
    {"hooks.poststop[].args", kStrings, kHost, "run on the host after delete, all of them; failures are logged"},
    {"hooks.poststop[].env", kStrings, kHost, "run on the host after delete, all of them; failures are logged"},
    {"hooks.poststop[].timeout", kI32, kHost, "run on the host after delete, all of them; failures are logged"},
    {"annotations", kStringMap, kHost, "io.wyvern.* that annotations.allow lists change the configuration; none reaches the guest"},
    {"linux", kObject, kGuest, ""},
    {"linux.uidMappings", kArray, kGuest, "of a user namespace in the guest, whose ids there are the host's; refused without that namespace"},
    {"linux.uidMappings[].containerID", kU32, kGuest, ""},
    {"linux.uidMappings[].hostID", kU32, kGuest, ""},
    {"linux.uidMappings[].size", kU32, kGuest, ""},
    {"linux.gidMappings", kArray, kGuest, "of a user namespace in the guest, whose ids there are the host's; refused without that namespace"},
    {"linux.gidMappings[].containerID", kU32, kGuest, ""},
    {"linux.gidMappings[].hostID", kU32, kGuest, ""},
    {"linux.gidMappings[].size", kU32, kGuest, ""},
    {"linux.sysctl", kStringMap, kTranslated, "ipc and uts ones go to the container, all others are set for the whole sandbox at its start"},
    {"linux.resources", kObject, kTranslated, ""},
    {"linux.resources.devices", kArray, kTranslated, "rules for block devices get the guest's numbers; those for other numbers than linux.devices has are left out with a note"},
    {"linux.resources.devices[].allow", kBool, kGuest, ""},
    {"linux.resources.devices[].type", kString, kGuest, ""},
    {"linux.resources.devices[].major", kI64, kGuest, ""},
    {"linux.resources.devices[].minor", kI64, kGuest, ""},
    {"linux.resources.devices[].access", kString, kGuest, ""},
    {"linux.resources.memory", kObject, kGuest, ""},
    {"linux.resources.memory.limit", kI64, kGuest, ""},
    {"linux.resources.memory.reservation", kI64, kGuest, ""},
    {"linux.resources.memory.swap", kI64, kGuest, ""},
    {"linux.resources.memory.kernel", kI64, kDropped, "the guest has cgroup v2, which has no such control"},
    {"linux.resources.memory.kernelTCP", kI64, kDropped, "the guest has cgroup v2, which has no such control"},
    {"linux.resources.memory.swappiness", kU64, kDropped, "the guest has cgroup v2, which has no such control"},
    {"linux.resources.memory.disableOOMKiller", kBool, kDropped, "the guest has cgroup v2, which has no such control"},
    {"linux.resources.memory.useHierarchy", kBool, kDropped, "the guest has cgroup v2, which has no such control"},
    {"linux.resources.memory.checkBeforeUpdate", kBool, kDropped, "the guest has cgroup v2, which has no such control"},
    {"linux.resources.cpu", kObject, kGuest, ""},
    {"linux.resources.cpu.shares", kU64, kTranslated, "to cpu.weight by the curve of runc 1.3.2 and crun 1.23 (1024 is 100), which the crun of the guest does not know yet"},
    {"linux.resources.cpu.quota", kI64, kGuest, ""},
    {"linux.resources.cpu.burst", kU64, kTranslated, "to cpu.max.burst: crun 1.8 in the guest does not write it"},
    {"linux.resources.cpu.period", kU64, kGuest, ""},
    {"linux.resources.cpu.idle", kI64, kGuest, ""},
    {"linux.resources.cpu.realtimeRuntime", kI64, kDropped, "the guest has cgroup v2, which has no such control"},
    {"linux.resources.cpu.realtimePeriod", kU64, kDropped, "the guest has cgroup v2, which has no such control"},
    {"linux.resources.cpu.cpus", kString, kHost, "CPUs and memory nodes of the host's, for the sandbox's processes: those of all its containers together"},
    {"linux.resources.cpu.mems", kString, kHost, "CPUs and memory nodes of the host's, for the sandbox's processes: those of all its containers together"},
    {"linux.resources.pids", kObject, kGuest, ""},
    {"linux.resources.pids.limit", kI64, kGuest, ""},
    {"linux.resources.blockIO", kObject, kTranslated, ""},
    {"linux.resources.blockIO.weight", kU32, kHost, "on the host: the sandbox gets the greatest weight of its containers; the guest has no proportional I/O scheduler"},
    {"linux.resources.blockIO.leafWeight", kU32, kDropped, "cgroup v2 has no such control"},
    {"linux.resources.blockIO.weightDevice", kArray, kHost, "on the host: the sandbox gets the greatest weight of its containers; the guest has no proportional I/O scheduler"},
    {"linux.resources.blockIO.weightDevice[].major", kI64, kHost, "on the host: the sandbox gets the greatest weight of its containers; the guest has no proportional I/O scheduler"},
    {"linux.resources.blockIO.weightDevice[].minor", kI64, kHost, "on the host: the sandbox gets the greatest weight of its containers; the guest has no proportional I/O scheduler"},
    {"linux.resources.blockIO.weightDevice[].weight", kU32, kHost, "on the host: the sandbox gets the greatest weight of its containers; the guest has no proportional I/O scheduler"},
    {"linux.resources.blockIO.weightDevice[].leafWeight", kU32, kDropped, "cgroup v2 has no such control"},
    {"linux.resources.blockIO.throttleReadBpsDevice", kArray, kTranslated, "on the host: the sandbox gets the sum of what its containers have for a device; in the guest for those that linux.devices makes disks of it"},
    {"linux.resources.blockIO.throttleReadBpsDevice[].major", kI64, kTranslated, "on the host: the sandbox gets the sum of what its containers have for a device; in the guest for those that linux.devices makes disks of it"},
    {"linux.resources.blockIO.throttleReadBpsDevice[].minor", kI64, kTranslated, "on the host: the sandbox gets the sum of what its containers have for a device; in the guest for those that linux.devices makes disks of it"},
    {"linux.resources.blockIO.throttleReadBpsDevice[].rate", kU64, kTranslated, "on the host: the sandbox gets the sum of what its containers have for a device; in the guest for those that linux.devices makes disks of it"},
    {"linux.resources.blockIO.throttleWriteBpsDevice", kArray, kTranslated, "on the host: the sandbox gets the sum of what its containers have for a device; in the guest for those that linux.devices makes disks of it"},
    {"linux.resources.blockIO.throttleWriteBpsDevice[].major", kI64, kTranslated, "on the host: the sandbox gets the sum of what its containers have for a device; in the guest for those that linux.devices makes disks of it"},
    {"linux.resources.blockIO.throttleWriteBpsDevice[].minor", kI64, kTranslated, "on the host: the sandbox gets the sum of what its containers have for a device; in the guest for those that linux.devices makes disks of it"},
    {"linux.resources.blockIO.throttleWriteBpsDevice[].rate", kU64, kTranslated, "on the host: the sandbox gets the sum of what its containers have for a device; in the guest for those that linux.devices makes disks of it"},
    {"linux.resources.blockIO.throttleReadIOPSDevice", kArray, kTranslated, "on the host: the sandbox gets the sum of what its containers have for a device; in the guest for those that linux.devices makes disks of it"},
    {"linux.resources.blockIO.throttleReadIOPSDevice[].major", kI64, kTranslated, "on the host: the sandbox gets the sum of what its containers have for a device; in the guest for those that linux.devices makes disks of it"},
    {"linux.resources.blockIO.throttleReadIOPSDevice[].minor", kI64, kTranslated, "on the host: the sandbox gets the sum of what its containers have for a device; in the guest for those that linux.devices makes disks of it"},
    {"linux.resources.blockIO.throttleReadIOPSDevice[].rate", kU64, kTranslated, "on the host: the sandbox gets the sum of what its containers have for a device; in the guest for those that linux.devices makes disks of it"},
    {"linux.resources.blockIO.throttleWriteIOPSDevice", kArray, kTranslated, "on the host: the sandbox gets the sum of what its containers have for a device; in the guest for those that linux.devices makes disks of it"},
    {"linux.resources.blockIO.throttleWriteIOPSDevice[].major", kI64, kTranslated, "on the host: the sandbox gets the sum of what its containers have for a device; in the guest for those that linux.devices makes disks of it"},
    {"linux.resources.blockIO.throttleWriteIOPSDevice[].minor", kI64, kTranslated, "on the host: the sandbox gets the sum of what its containers have for a device; in the guest for those that linux.devices makes disks of it"},
    {"linux.resources.blockIO.throttleWriteIOPSDevice[].rate", kU64, kTranslated, "on the host: the sandbox gets the sum of what its containers have for a device; in the guest for those that linux.devices makes disks of it"},
    {"linux.resources.hugepageLimits", kArray, kTranslated, "the guest knows 2MB pages; limits of other sizes are dropped"},
    {"linux.resources.hugepageLimits[].pageSize", kString, kTranslated, "2MB only"},
    {"linux.resources.hugepageLimits[].limit", kU64, kGuest, ""},
    {"linux.resources.network", kObject, kDropped, "the guest has cgroup v2, which has no such control"},
    {"linux.resources.network.classID", kU32, kDropped, "the guest has cgroup v2, which has no such control"},
    {"linux.resources.network.priorities", kArray, kDropped, "the guest has cgroup v2, which has no such control"},
    {"linux.resources.network.priorities[].name", kString, kDropped, "the guest has cgroup v2, which has no such control"},
    {"linux.resources.network.priorities[].priority", kU32, kDropped, "the guest has cgroup v2, which has no such control"},
    {"linux.resources.rdma", kMap, kRefused, "the guest has no RDMA devices"},
    {"linux.resources.rdma{}.hcaHandles", kU32, kRefused, "the guest has no RDMA devices"},
    {"linux.resources.rdma{}.hcaObjects", kU32, kRefused, "the guest has no RDMA devices"},
    {"linux.resources.unified", kStringMap, kTranslated, "for the guest: files of the controllers cpu, cpuset, hugetlb, io, memory and pids; other names are refused"},
    {"linux.cgroupsPath", kString, kHost, "where the anchor lives on the host; in the guest always /wyvern/<id>"},
    {"linux.namespaces", kArray, kTranslated, ""},
    {"linux.namespaces[].type", kString, kTranslated, "pid, ipc, uts, mount, cgroup, time: new ones in the guest; network: the sandbox's, or a new one for another container than the sandbox's first that names none; user: a new one with linux.uidMappings, one for all containers of a pod"},
    {"linux.namespaces[].path", kString, kTranslated, "network: the sandbox's, of which the guest's own is the image; another is refused; in a pod pid, ipc, uts and user: never joined on the host, but the pod's or that of another of its containers in the guest, any other is refused; else: a namespace of its own in the guest"},
    {"linux.devices", kArray, kTranslated, ""},
    {"linux.devices[].path", kString, kTranslated, "character devices that every Linux has, and FIFOs; block devices that a rule lets the container read or write become disks of the guest; others are refused (dropped for containers that may use all devices)"},
    {"linux.devices[].type", kString, kTranslated, "character devices that every Linux has, and FIFOs; block devices that a rule lets the container read or write become disks of the guest; others are refused (dropped for containers that may use all devices)"},
    {"linux.devices[].major", kI64, kTranslated, "character devices that every Linux has, and FIFOs; block devices that a rule lets the container read or write become disks of the guest; others are refused (dropped for containers that may use all devices)"},
    {"linux.devices[].minor", kI64, kTranslated, "character devices that every Linux has, and FIFOs; block devices that a rule lets the container read or write become disks of the guest; others are refused (dropped for containers that may use all devices)"},
    {"linux.devices[].fileMode", kU32, kGuest, ""},
    {"linux.devices[].uid", kU32, kGuest, ""},
    {"linux.devices[].gid", kU32, kGuest, ""},
    {"linux.seccomp", kObject, kTranslated, "AF_VSOCK is denied to every container, also where no profile is given"},
    {"linux.seccomp.defaultAction", kString, kGuest, ""},
    {"linux.seccomp.defaultErrnoRet", kU32, kGuest, ""},
    {"linux.seccomp.architectures", kStrings, kTranslated, "those of the guest's processor"},
    {"linux.seccomp.flags", kStrings, kGuest, ""},
    {"linux.seccomp.listenerPath", kString, kRefused, "a seccomp agent on the host cannot serve processes of the guest"},
    {"linux.seccomp.listenerMetadata", kString, kDropped, "only means something with listenerPath"},
    {"linux.seccomp.syscalls", kArray, kTranslated, "socket and socketcall rules are split"},
    {"linux.seccomp.syscalls[].names", kStrings, kTranslated, ""},
    {"linux.seccomp.syscalls[].action", kString, kGuest, ""},
    {"linux.seccomp.syscalls[].errnoRet", kU32, kGuest, ""},
    {"linux.seccomp.syscalls[].args", kArray, kTranslated, ""},
    {"linux.seccomp.syscalls[].args[].index", kU32, kTranslated, ""},
    {"linux.seccomp.syscalls[].args[].value", kU64, kTranslated, ""},
    {"linux.seccomp.syscalls[].args[].valueTwo", kU64, kTranslated, ""},
    {"linux.seccomp.syscalls[].args[].op", kString, kTranslated, ""},
    {"linux.rootfsPropagation", kString, kGuest, ""},
    {"linux.maskedPaths", kStrings, kGuest, ""},
    {"linux.readonlyPaths", kStrings, kGuest, ""},
    {"linux.mountLabel", kString, kDropped, "the guest kernel has no SELinux"},
    {"linux.intelRdt", kObject, kDropped, "resource director technology is not passed through"},
    {"linux.intelRdt.closID", kString, kDropped, "resource director technology is not passed through"},
    {"linux.intelRdt.schemata", kString, kDropped, "resource director technology is not passed through"},
    {"linux.intelRdt.l3CacheSchema", kString, kDropped, "resource director technology is not passed through"},
    {"linux.intelRdt.memBwSchema", kString, kDropped, "resource director technology is not passed through"},
    {"linux.intelRdt.enableCMT", kBool, kDropped, "resource director technology is not passed through"},
    {"linux.intelRdt.enableMBM", kBool, kDropped, "resource director technology is not passed through"},
    {"linux.personality", kObject, kGuest, ""},
    {"linux.personality.domain", kString, kGuest, ""},
    {"linux.personality.flags", kStrings, kGuest, ""},
    {"linux.timeOffsets", kMap, kDropped, "crun 1.8 in the guest does not know it"},
    {"linux.timeOffsets{}.secs", kI64, kDropped, "crun 1.8 in the guest does not know it"},
    {"linux.timeOffsets{}.nanosecs", kU32, kDropped, "crun 1.8 in the guest does not know it"},
    {"solaris", kAny, kDropped, "for Solaris only"},
    {"windows", kAny, kDropped, "for Windows only"},
    {"zos", kAny, kDropped, "for z/OS only"},
    {"vm", kAny, kDropped, "the hypervisor, kernel and image come from wyvern.yaml"},
};
// clang-format on

}  // namespace

std::span<const Field> Fields() {
  return kFields;
}

const Field* FindField(std::string_view path) {
  static const auto* const index = [] {
    auto* map =
        new std::unordered_map<std::string_view, const Field*>;  // lives as long as the process
    for (const Field& field : kFields) {
      map->emplace(field.path, &field);
    }
    return map;
  }();
  const auto it = index->find(path);
  return it == index->end() ? nullptr : it->second;
}

std::string_view HandlingName(Handling handling) {
  switch (handling) {
    case kGuest:
      return "guest";
    case kHost:
      return "host";
    case kTranslated:
      return "translated";
    case kDropped:
      return "dropped";
    case kRefused:
      return "refused";
  }
  return "?";
}

std::string FieldsMarkdown() {
  std::string out =
      "# What happens to each field of config.json\n\n"
      "OCI runtime specification 1.2. This file is checked against `fields.cc`, and `fields.cc` "
      "against `testing/fields.txt`.\n\n"
      "- **guest**: passed unchanged to the runtime in the guest. **host**: used on the host only. "
      "**translated**: changed on its way.\n"
      "- **dropped**: left out; one log line says so when it is set. **refused**: an error that "
      "names the field when it is set.\n"
      "- A field that is not here is unknown: left out with one log line.\n\n"
      "| field | what happens | |\n|---|---|---|\n";
  for (const Field& field : kFields) {
    out += "| `";
    out += field.path;
    out += "` | ";
    out += HandlingName(field.handling);
    out += " | ";
    out += field.note;
    out += " |\n";
  }
  return out;
}

}  // namespace wyvern::oci
