#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "oci/seccomp.h"
#include "oci/translate.h"

namespace wyvern::oci {
namespace {

Result<bool> NamespaceStays(const Json& entry, size_t index, bool own_network, Notes& notes) {
  static constexpr std::array<std::string_view, 7> kKept = {"pid",    "ipc",  "uts", "mount",
                                                            "cgroup", "time", "user"};
  const std::string type = GetString(entry, "type");
  const std::string path = GetString(entry, "path");
  const std::string field = fmt::format("linux.namespaces[{}]", index);
  if (type == "network") {
    return own_network;
  }
  if (std::ranges::find(kKept, type) == kKept.end()) {
    return Fail(Code::kInvalidArgument,
                fmt::format("{}.type: '{}' is not a namespace", field, type));
  }
  if (!path.empty()) {
    notes.Add(
        fmt::format("{}.path: ignored: the container gets a {} namespace of its own in the guest",
                    field, type));
  }
  return true;
}

Result<> TranslateNamespaces(Json& linux_section, const TranslateOptions& options, Notes& notes) {
  Json out = Json::array();
  bool has_mount = false;
  if (const Json* namespaces = Child(linux_section, "namespaces"); namespaces != nullptr) {
    for (size_t i = 0; i < namespaces->size(); ++i) {
      const std::string type = GetString((*namespaces)[i], "type");
      if (const auto shared = options.namespaces.find(type); shared != options.namespaces.end()) {
        if (!shared->second.empty()) {
          out.push_back({{"type", type}, {"path", shared->second}});
        }
        if (type == "user") {  // it has its own
          linux_section.erase("uidMappings");
          linux_section.erase("gidMappings");
        }
        continue;
      }
      WV_TRY(const bool stays, NamespaceStays((*namespaces)[i], i, options.own_network, notes));
      if (!stays) {
        continue;
      }
      has_mount |= type == "mount";
      out.push_back({{"type", type}});
    }
  }
  if (!has_mount) {
    out.push_back({{"type", "mount"}});  // without one the container would be in the agent's
  }
  linux_section["namespaces"] = std::move(out);
  return {};
}

bool HasNamespace(const Json& document, std::string_view type) {
  const Json* linux_section = Child(document, "linux");
  const Json* namespaces = linux_section == nullptr ? nullptr : Child(*linux_section, "namespaces");
  return namespaces != nullptr && std::ranges::any_of(*namespaces, [&](const Json& entry) {
           return GetString(entry, "type") == type;
         });
}

bool IsContainerSysctl(const std::string& key, bool ipc, bool uts) {
  static constexpr std::array<std::string_view, 8> kIpc = {
      "kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem",
      "kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced"};
  if (ipc && (key.starts_with("fs.mqueue.") || std::ranges::find(kIpc, key) != kIpc.end())) {
    return true;
  }
  return uts && (key == "kernel.domainname" || key == "kernel.hostname");
}

void TranslateSysctl(Json& linux_section, bool ipc, bool uts, bool own_network) {
  Json* sysctl = Child(linux_section, "sysctl");
  if (sysctl == nullptr) {
    return;
  }
  for (auto it = sysctl->begin(); it != sysctl->end();) {
    const bool stays =
        IsContainerSysctl(it.key(), ipc, uts) || (own_network && it.key().starts_with("net."));
    it = stays ? std::next(it) : sysctl->erase(it);
  }
}

}  // namespace

std::vector<std::string> SandboxSysctls(const Json& document, bool all) {
  std::vector<std::string> out;
  const Json* linux_section = Child(document, "linux");
  const Json* sysctl = linux_section == nullptr ? nullptr : Child(*linux_section, "sysctl");
  if (sysctl == nullptr) {
    return out;
  }
  const bool ipc = !all && HasNamespace(document, "ipc");
  const bool uts = !all && HasNamespace(document, "uts");
  for (const auto& [key, value] : sysctl->items()) {
    if (!IsContainerSysctl(key, ipc, uts) && value.is_string()) {
      out.push_back(key + "=" + value.get<std::string>());
    }
  }
  return out;
}

Result<> TranslateLinux(Json& document, const TranslateOptions& options,
                        const runtime::Limits& limits, Notes& notes) {
  const bool ipc = HasNamespace(document, "ipc") && !options.namespaces.contains("ipc");
  const bool uts = HasNamespace(document, "uts") && !options.namespaces.contains("uts");
  if (Child(document, "linux") == nullptr) {
    document["linux"] = Json::object();
  }
  if (options.namespaces.contains("uts")) {
    document.erase("hostname");  // the pod's
    document.erase("domainname");
  }
  Json& section = document["linux"];
  if (!HasNamespace(document, "pid")) {
    notes.Add(
        "linux.namespaces: no pid namespace: the container sees the processes of its virtual "
        "machine, never the host's");
  }
  WV_TRY_VOID(TranslateNamespaces(section, options, notes));
  TranslateSysctl(section, ipc, uts, options.own_network);
  WV_TRY_VOID(TranslateDevices(section, options.devices, notes));
  if (Json* resources = Child(section, "resources"); resources != nullptr) {
    TranslateResourcesSection(*resources, limits, options.devices, notes);
  }
  section["cgroupsPath"] = "/wyvern/" + options.container_id;
  return DenyVsock(section, options.arch);
}

}  // namespace wyvern::oci
