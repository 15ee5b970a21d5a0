// The only file that catches nlohmann's exceptions: everything of oci/ that touches JSON is called from here.
#include "oci/spec.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "oci/json.h"
#include "oci/translate.h"

namespace wyvern::oci {

// NOLINTNEXTLINE(bugprone-exception-escape): the JSON library makes a null in a noexcept constructor.
struct Spec::Rep {
  Json document;
  Facts facts;
  std::vector<std::string> notes;
};

namespace {

// Runs `body`; an exception of the JSON library would be our bug, but the input is hostile: it becomes an error.
template <typename Body>
auto Fenced(Body body) -> decltype(body()) {
  try {
    return body();
  } catch (const Json::exception& e) {
    return Fail(Code::kInternal, fmt::format("JSON: {}", e.what()));
  }
}

std::vector<Hook> ReadHooks(const Json& hooks, const char* kind) {
  std::vector<Hook> out;
  const Json* list = Child(hooks, kind);
  if (list == nullptr) {
    return out;
  }
  for (const Json& item : *list) {
    out.push_back({GetString(item, "path"), GetStrings(item, "args"), std::nullopt,
                   static_cast<int>(std::clamp<int64_t>(GetInt(item, "timeout"), 0, 3600))});
    if (Child(item, "env") != nullptr) {
      out.back().env = GetStrings(item, "env");
    }
  }
  return out;
}

Result<> CheckHooks(const Json& hooks) {
  for (const auto& [kind, list] : hooks.items()) {
    for (size_t i = 0; i < list.size(); ++i) {
      if (!GetString(list[i], "path").starts_with('/')) {
        return Fail(Code::kInvalidArgument,
                    fmt::format("hooks.{}[{}].path: must be an absolute path", kind, i));
      }
    }
  }
  return {};
}

// How containerd's CRI and CRI-O mark the container that only stands for a pod.
constexpr std::array<std::string_view, 2> kPodMarks = {"io.kubernetes.cri.container-type",
                                                       "io.kubernetes.cri-o.ContainerType"};

bool StandsForPod(const Facts& facts) {
  return std::ranges::any_of(kPodMarks, [&](std::string_view mark) {
    const auto it = facts.annotations.find(std::string(mark));
    return it != facts.annotations.end() && it->second == "sandbox";
  });
}

std::string ShmSource(const Json& document) {
  const Json* mounts = Child(document, "mounts");
  for (size_t i = 0; mounts != nullptr && i < mounts->size(); ++i) {
    const Json& mount = (*mounts)[i];
    if (GetString(mount, "destination") == "/dev/shm" && GetString(mount, "type") == "bind") {
      return GetString(mount, "source");
    }
  }
  return {};
}

// What the makers of pods prepare for each. containerd's podsandbox mode mounts them in every container, by the Sandbox API nobody does.
constexpr std::array<std::string_view, 3> kPodFiles = {"/etc/resolv.conf", "/etc/hostname",
                                                       "/etc/hosts"};

std::map<std::string, std::string> PodFiles(const Json& document) {
  std::map<std::string, std::string> files;
  const Json* mounts = Child(document, "mounts");
  for (size_t i = 0; mounts != nullptr && i < mounts->size(); ++i) {
    const std::string destination = GetString((*mounts)[i], "destination");
    const std::string source = GetString((*mounts)[i], "source");
    if (std::ranges::find(kPodFiles, destination) != kPodFiles.end() &&
        GetString((*mounts)[i], "type") == "bind" && source.starts_with('/')) {
      files[destination] = source;
    }
  }
  return files;
}

void ReadNamespaces(const Json& linux_section, Facts& facts) {
  const Json* namespaces = Child(linux_section, "namespaces");
  if (namespaces == nullptr) {
    return;
  }
  for (const Json& entry : *namespaces) {
    const std::string path = GetString(entry, "path");
    if (GetString(entry, "type") == "network") {
      facts.network_namespace = true;
      facts.network_namespace_path = path;
    } else if (!path.empty()) {
      facts.namespace_paths[GetString(entry, "type")] = path;
    }
  }
}

Result<> ReadLinux(const Json& linux_section, Facts& facts) {
  facts.cgroups_path = GetString(linux_section, "cgroupsPath");
  ReadNamespaces(linux_section, facts);
  WV_TRY(facts.ids, ReadUserNamespace(linux_section));
  const Json* resources = Child(linux_section, "resources");
  if (resources == nullptr) {
    return {};
  }
  WV_TRY(facts.limits, ReadLimits(*resources));
  return runtime::CheckLimits(facts.limits);
}

void ReadProcess(const Json& process, Facts& facts) {
  facts.terminal = GetBool(process, "terminal");
  if (const Json* size = Child(process, "consoleSize"); size != nullptr) {
    facts.rows = static_cast<uint32_t>(GetInt(*size, "height"));
    facts.columns = static_cast<uint32_t>(GetInt(*size, "width"));
  }
  if (process.contains("oomScoreAdj")) {
    facts.oom_score_adj =
        static_cast<int>(std::clamp<int64_t>(GetInt(process, "oomScoreAdj"), -1000, 1000));
  }
}

// Elsewhere the network belongs to the user namespace. Here it is the guest's, where root of the container may no more than others; so what
// is asked of the container's root only because of others on the same machine is everybody's in this one.
void LetUsersServe(std::vector<std::string>& sysctls) {
  for (const std::string_view word :
       {"net.ipv4.ip_unprivileged_port_start=0", "net.ipv4.ping_group_range=0 2147483647"}) {
    const std::string_view key = word.substr(0, word.find('=') + 1);
    if (std::ranges::none_of(sysctls,
                             [&](const std::string& other) { return other.starts_with(key); })) {
      sysctls.emplace_back(word);
    }
  }
}

// In a user namespace nobody makes device nodes: crun binds the guest's own, which it has by the same names for what every Linux has.
Result<> CheckDevices(const Facts& facts) {
  if (facts.block_devices.empty()) {
    return {};
  }
  return Fail(Code::kInvalidArgument,
              facts.block_devices.front().field +
                  ": a block device cannot be had in a user namespace, where no device node can be "
                  "made: mount it on the host, or as a volume");
}

Result<Facts> ReadFacts(const Json& document) {
  Facts facts;
  const Json* root = Child(document, "root");
  facts.root_path = root == nullptr ? "" : GetString(*root, "path");
  if (facts.root_path.empty()) {
    return Fail(Code::kInvalidArgument, "root.path: missing");
  }
  facts.root_readonly = GetBool(*root, "readonly");
  facts.hostname = GetString(document, "hostname");
  const Json* process = Child(document, "process");
  if (process == nullptr) {
    return Fail(Code::kInvalidArgument, "process: missing");
  }
  WV_TRY_VOID(CheckProcess(*process, "process"));
  ReadProcess(*process, facts);
  if (const Json* annotations = Child(document, "annotations"); annotations != nullptr) {
    for (const auto& [key, value] : annotations->items()) {
      facts.annotations.emplace(key, value.get<std::string>());
    }
  }
  if (const Json* hooks = Child(document, "hooks"); hooks != nullptr) {
    WV_TRY_VOID(CheckHooks(*hooks));
    facts.hooks = {ReadHooks(*hooks, "prestart"), ReadHooks(*hooks, "createRuntime"),
                   ReadHooks(*hooks, "createContainer"), ReadHooks(*hooks, "poststart"),
                   ReadHooks(*hooks, "poststop")};
  }
  if (const Json* linux_section = Child(document, "linux"); linux_section != nullptr) {
    WV_TRY_VOID(ReadLinux(*linux_section, facts));
    WV_TRY(facts.block_devices, FindBlockDevices(*linux_section));
  }
  facts.stands_for_pod = StandsForPod(facts);
  facts.shm_source = ShmSource(document);
  if (facts.stands_for_pod) {
    facts.pod_files = PodFiles(document);
  }
  facts.sandbox_sysctls = SandboxSysctls(document, facts.stands_for_pod);
  if (!facts.ids.empty()) {
    LetUsersServe(facts.sandbox_sysctls);
    WV_TRY_VOID(CheckDevices(facts));
  }
  return facts;
}

void TranslateHooks(Json& document, const std::vector<GuestHook>& guests) {
  const Json* hooks = Child(document, "hooks");
  const Json* start = hooks == nullptr ? nullptr : Child(*hooks, "startContainer");
  Json only = Json::object();
  if (start != nullptr && !start->empty()) {
    only["startContainer"] = *start;
  }
  for (const GuestHook& hook : guests) {
    only[hook.kind].push_back({{"path", hook.path}});
  }
  document.erase("hooks");
  if (!only.empty()) {
    document["hooks"] = std::move(only);
  }
}

Result<Json> ParseSection(std::string_view text, std::string_view pattern, Notes& notes) {
  WV_TRY_CONTEXT(Json json, ParseJson(text, kMaxConfigBytes), std::string(pattern));
  WV_TRY_VOID(Prune(json, pattern, notes));
  return json;
}

}  // namespace

Result<> CheckProcess(const Json& process, std::string_view where) {
  if (GetStrings(process, "args").empty()) {
    return Fail(Code::kInvalidArgument, fmt::format("{}.args: missing or empty", where));
  }
  const std::string cwd = GetString(process, "cwd");
  if (!cwd.starts_with('/')) {
    return Fail(Code::kInvalidArgument, fmt::format("{}.cwd: must be an absolute path", where));
  }
  return {};
}

Result<Spec> Spec::Parse(std::string_view text) {
  return Fenced([&]() -> Result<Spec> {
    auto rep = std::make_shared<Rep>();
    Notes notes(&rep->notes);
    WV_TRY_CONTEXT(rep->document, ParseJson(text, kMaxConfigBytes), "config.json");
    WV_TRY_VOID_CONTEXT(Prune(rep->document, "", notes), "config.json");
    WV_TRY_CONTEXT(rep->facts, ReadFacts(rep->document), "config.json");
    return Spec(std::move(rep));
  });
}

const Facts& Spec::facts() const {
  return rep_->facts;
}

Result<GuestSpec> Spec::Translate(const TranslateOptions& options) const {
  return Fenced([&]() -> Result<GuestSpec> {
    GuestSpec out;
    out.notes = rep_->notes;
    Notes notes(&out.notes);
    Json document = rep_->document;
    document["ociVersion"] = "1.0.2";
    document["root"]["path"] = fmt::format(
        "{}/{}-root", options.root_on_disk ? kGuestDisks : kGuestShare, options.share_prefix);
    document["process"]["terminal"] = options.terminal;
    document["process"].erase("consoleSize");
    document.erase("annotations");
    TranslateHooks(document, options.guest_hooks);
    WV_TRY_CONTEXT(Volumes volumes, TranslateMounts(document, options, rep_->facts.ids),
                   "config.json");
    out.volumes = std::move(volumes.exports);
    out.disks = std::move(volumes.disks);
    WV_TRY_VOID_CONTEXT(TranslateLinux(document, options, rep_->facts.limits, notes),
                        "config.json");
    out.config_json = Dump(document);
    return out;
  });
}

Result<std::string> TranslateProcess(std::string_view process_json, bool terminal,
                                     std::vector<std::string>* out) {
  return Fenced([&]() -> Result<std::string> {
    Notes notes(out);
    WV_TRY(Json process, ParseSection(process_json, "process", notes));
    WV_TRY_VOID(CheckProcess(process, "process"));
    process["terminal"] = terminal;
    process.erase("consoleSize");
    return Dump(process);
  });
}

Result<runtime::Limits> ParseResources(std::string_view resources_json) {
  return Fenced([&]() -> Result<runtime::Limits> {
    Notes notes(nullptr);  // whoever translates it gets them
    WV_TRY(const Json resources, ParseSection(resources_json, "linux.resources", notes));
    return ReadLimits(resources);
  });
}

Result<std::string> TranslateResources(std::string_view resources_json,
                                       const runtime::Limits& limits,
                                       const std::map<DeviceNumber, DeviceNumber>& devices,
                                       std::vector<std::string>* out) {
  return Fenced([&]() -> Result<std::string> {
    Notes notes(out);
    WV_TRY(Json resources, ParseSection(resources_json, "linux.resources", notes));
    TranslateResourcesSection(resources, limits, devices, notes);
    return Dump(resources);
  });
}

Result<> CheckId(std::string_view id) {
  const auto alnum = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
  };
  const bool fits =
      !id.empty() && id.size() <= 128 && alnum(id.front()) &&
      std::ranges::all_of(id, [&](char c) { return alnum(c) || c == '_' || c == '.' || c == '-'; });
  if (!fits) {
    return Fail(
        Code::kInvalidArgument,
        fmt::format(
            "id '{}': must be 1 to 128 of A-Z a-z 0-9 _ . - and begin with a letter or digit",
            id.substr(0, 140)));
  }
  return {};
}

}  // namespace wyvern::oci
