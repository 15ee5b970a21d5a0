// oci/translate.h — the parts of the translation, each on its own section of the pruned document. Internal to oci/.
#pragma once

#include <map>
#include <vector>

#include "base/error.h"
#include "oci/json.h"
#include "oci/spec.h"

namespace wyvern::oci {

// Checks at Parse time: what must be there.
Result<> CheckProcess(const Json& process, std::string_view where);

struct Volumes {
  std::vector<Export> exports;
  std::vector<DiskMount> disks;
};

// users.cc. uidMappings and gidMappings of `object`, checked; empty if it has neither. Errors begin with `where`.
Result<IdMap> ReadIdMap(const Json& object, const std::string& where);
// As crun reads them.
void WriteIdMap(const IdMap& map, Json& object);
// That of linux.namespaces "user": empty if there is no such namespace.
Result<IdMap> ReadUserNamespace(const Json& linux_section);

// mounts[]: bind sources become exports, file systems of disks disks; other types pass if the guest can mount them itself.
// `ids`: of the container's user namespace.
Result<Volumes> TranslateMounts(Json& document, const TranslateOptions& options, const IdMap& ids);

// linux.*: namespaces, sysctl, devices, resources, seccomp, cgroupsPath.
Result<> TranslateLinux(Json& document, const TranslateOptions& options,
                        const runtime::Limits& limits, Notes& notes);

// resources.cc. linux.resources, pruned, as limits: what is 0 or "" is not given, as clients mean it. Not checked yet.
Result<runtime::Limits> ReadLimits(const Json& resources);
// For the guest: `limits` in place of what is there, and device rules.
void TranslateResourcesSection(Json& resources, const runtime::Limits& limits,
                               const std::map<DeviceNumber, DeviceNumber>& devices, Notes& notes);

// devices.cc. linux.devices: those of every Linux stay, block devices of the host become the guest's, others are refused, or left out where
// everything is allowed.
Result<std::vector<BlockDevice>> FindBlockDevices(const Json& linux_section);
Result<> TranslateDevices(Json& linux_section, const std::map<DeviceNumber, DeviceNumber>& devices,
                          Notes& notes);
// linux.resources.devices
void TranslateDeviceRules(Json& resources, const std::map<DeviceNumber, DeviceNumber>& devices,
                          Notes& notes);

// "net.*" and everything that no namespace of the container holds; or `all`.
std::vector<std::string> SandboxSysctls(const Json& document, bool all);

}  // namespace wyvern::oci
