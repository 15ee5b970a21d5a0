#include "sandbox_api/pod_bundle.h"

#include <limits.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <string_view>

#include <nlohmann/json.hpp>

#include "base/fd.h"
#include "task/options.h"

namespace wyvern::shim {

namespace {

using nlohmann::json;

constexpr char kPodType[] = "runtime.v1.PodSandboxConfig";
constexpr char kCri[] = "io.kubernetes.cri.";
// deploy/containerd has the same.
constexpr std::array<std::string_view, 2> kPodAnnotations = {"io.wyvern.", "io.katacontainers."};
constexpr int kOomScoreAdj = -998;  // containerd's, of a pause
constexpr uint64_t kMaxNamesFile = 1U << 20U;
constexpr mode_t kForEverybody = 0644;

// A word of a line of the files that we write.
Result<> CheckWord(const std::string& word, const char* field) {
  const bool fits = std::ranges::none_of(
      word, [](char c) { return static_cast<unsigned char>(c) <= ' ' || c == '\x7f'; });
  return fits && !word.empty()
             ? Result<>()
             : Fail(Code::kInvalidArgument,
                    std::string(field) + ": empty, or with a blank or a control character");
}

template <typename Words>
Result<> AddLine(const char* keyword, const Words& words, const char* field, bool each,
                 std::string& text) {
  std::string line;
  for (const std::string& word : words) {
    // An option may have none of its own, a search list its words in one.
    WV_TRY_VOID(CheckWord(word, field));
    line += (line.empty() || each ? std::string(keyword) : "") + " " + word + (each ? "\n" : "");
  }
  text += line.empty() || each ? line : line + "\n";
  return {};
}

Result<std::string> ResolvConf(const sandbox_pb::DNSConfig& dns) {
  std::string text;
  WV_TRY_VOID(AddLine("search", dns.searches(), "dns_config.searches", false, text));
  WV_TRY_VOID(AddLine("nameserver", dns.servers(), "dns_config.servers", true, text));
  WV_TRY_VOID(AddLine("options", dns.options(), "dns_config.options", false, text));
  return text;
}

json Annotations(const sandbox_pb::CreateSandboxRequest& request,
                 const sandbox_pb::PodSandboxConfig& pod) {
  json all = json::object();
  const auto take = [&](const auto& annotations) {
    for (const auto& [key, value] : annotations) {
      if (std::ranges::any_of(kPodAnnotations,
                              [&](auto prefix) { return key.starts_with(prefix); })) {
        all[key] = value;
      }
    }
  };
  take(pod.annotations());
  take(request.annotations());
  const auto cri = [&](const char* key, std::string value) {
    all[kCri + std::string(key)] = std::move(value);
  };
  cri("container-type", "sandbox");
  cri("sandbox-id", request.sandbox_id());
  cri("sandbox-namespace", pod.metadata().namespace_());
  cri("sandbox-name", pod.metadata().name());
  cri("sandbox-uid", pod.metadata().uid());
  cri("sandbox-log-directory", pod.log_directory());
  if (pod.linux().has_resources()) {
    const auto& resources = pod.linux().resources();
    cri("sandbox-cpu-period", std::to_string(resources.cpu_period()));
    cri("sandbox-cpu-quota", std::to_string(resources.cpu_quota()));
    cri("sandbox-cpu-shares", std::to_string(resources.cpu_shares()));
    cri("sandbox-memory", std::to_string(resources.memory_limit_in_bytes()));
  }
  return all;
}

json Namespaces(const sandbox_pb::CreateSandboxRequest& request,
                const sandbox_pb::NamespaceOption& options) {
  json all = json::array({{{"type", "uts"}}, {{"type", "mount"}}});
  if (!request.netns_path().empty()) {
    all.push_back({{"type", "network"}, {"path", request.netns_path()}});
  } else if (options.network() != sandbox_pb::NODE) {
    all.push_back({{"type", "network"}});
  }
  if (options.pid() != sandbox_pb::NODE) {
    all.push_back({{"type", "pid"}});
  }
  if (options.ipc() != sandbox_pb::NODE) {
    all.push_back({{"type", "ipc"}});
  }
  if (options.has_userns_options() && options.userns_options().mode() == sandbox_pb::POD) {
    all.push_back({{"type", "user"}});
  }
  return all;
}

// Checked where all specs are read.
json Ids(const google::protobuf::RepeatedPtrField<sandbox_pb::IDMapping>& ranges) {
  json all = json::array();
  for (const sandbox_pb::IDMapping& range : ranges) {
    all.push_back({{"containerID", range.container_id()},
                   {"hostID", range.host_id()},
                   {"size", range.length()}});
  }
  return all;
}

// As containerd's configuration has it by default (enable_unprivileged_ports and _icmp); it does not tell us what it is.
json Sysctls(const sandbox_pb::LinuxPodSandboxConfig& config) {
  json all = json::object();
  if (config.security_context().namespace_options().network() != sandbox_pb::NODE) {
    all["net.ipv4.ip_unprivileged_port_start"] = "0";
    all["net.ipv4.ping_group_range"] = "0 2147483647";
  }
  for (const auto& [key, value] : config.sysctls()) {
    all[key] = value;
  }
  return all;
}

// containerd's: one of systemd is slice:prefix:name.
std::string CgroupsPath(const std::string& parent, const std::string& id) {
  const std::string base = std::filesystem::path(parent).filename().string();
  return base.ends_with(".slice") ? base + ":cri-containerd:" + id : parent + "/" + id;
}

json Mounts(const std::string& bundle, bool host_ipc) {
  json all = json::array();
  if (host_ipc) {
    all.push_back({{"destination", "/dev/shm"}, {"type", "bind"}, {"source", "/dev/shm"}});
  }
  for (const char* const name : {"resolv.conf", "hostname", "hosts"}) {
    all.push_back({{"destination", std::string("/etc/") + name},
                   {"type", "bind"},
                   {"source", bundle + "/" + name},
                   {"options", json::array({"rbind", "ro"})}});
  }
  return all;
}

json ConfigJson(const sandbox_pb::CreateSandboxRequest& request,
                const sandbox_pb::PodSandboxConfig& pod) {
  const auto& namespaces = pod.linux().security_context().namespace_options();
  json config = {
      {"ociVersion", "1.1.0"},
      {"root", {{"path", "rootfs"}, {"readonly", true}}},
      // Never run: what stands for a pod is an anchor on the host.
      {"process", {{"args", json::array({"/pause"})}, {"cwd", "/"}, {"oomScoreAdj", kOomScoreAdj}}},
      {"mounts", Mounts(request.bundle_path(), namespaces.ipc() == sandbox_pb::NODE)},
      {"annotations", Annotations(request, pod)},
      {"linux",
       {{"namespaces", Namespaces(request, namespaces)}, {"sysctl", Sysctls(pod.linux())}}}};
  if (namespaces.has_userns_options() && namespaces.userns_options().mode() == sandbox_pb::POD) {
    config["linux"]["uidMappings"] = Ids(namespaces.userns_options().uids());
    config["linux"]["gidMappings"] = Ids(namespaces.userns_options().gids());
  }
  if (!pod.hostname().empty()) {
    config["hostname"] = pod.hostname();
  }
  if (const std::string& parent = pod.linux().cgroup_parent(); !parent.empty()) {
    config["linux"]["cgroupsPath"] = CgroupsPath(parent, request.sandbox_id());
  }
  return config;
}

Result<sandbox_pb::PodSandboxConfig> PodOf(const pb::Any& options) {
  sandbox_pb::PodSandboxConfig pod;
  const std::string type = TypeName(options.type_url());
  if (type.empty() && options.value().empty()) {
    return pod;
  }
  if (type != kPodType) {
    return Fail(Code::kInvalidArgument,
                "CreateSandbox: options are '" + type + "', not a " + kPodType);
  }
  if (!pod.ParseFromString(options.value())) {
    return Fail(Code::kInvalidArgument, "CreateSandbox: options do not parse");
  }
  return pod;
}

// Missing: empty.
Result<std::string> ReadIfThere(const char* path) {
  auto text = ReadFile(path, kMaxNamesFile);
  if (!text && text.error().code() == Code::kNotFound) {
    return std::string();
  }
  return text;
}

}  // namespace

Result<PodBundle> DescribePod(const sandbox_pb::CreateSandboxRequest& request,
                              const HostNames& host) {
  WV_TRY(const sandbox_pb::PodSandboxConfig pod, PodOf(request.options()));
  PodBundle bundle;
  if (!pod.hostname().empty()) {
    WV_TRY_VOID(CheckWord(pod.hostname(), "hostname"));
  }
  bundle.hostname = (pod.hostname().empty() ? host.hostname : pod.hostname()) + "\n";
  bundle.hosts = host.hosts;
  bundle.resolv_conf = host.resolv_conf;
  if (pod.has_dns_config()) {
    WV_TRY(bundle.resolv_conf, ResolvConf(pod.dns_config()));
  }
  // Strings of proto3 are UTF-8, or they did not parse.
  bundle.config_json =
      ConfigJson(request, pod).dump(-1, ' ', false, json::error_handler_t::replace);
  return bundle;
}

Result<HostNames> ReadHostNames() {
  HostNames names;
  std::array<char, HOST_NAME_MAX + 1> name{};
  if (gethostname(name.data(), name.size() - 1) != 0) {
    return SysError("gethostname");
  }
  names.hostname = name.data();
  WV_TRY(names.hosts, ReadIfThere("/etc/hosts"));
  WV_TRY(names.resolv_conf, ReadIfThere("/etc/resolv.conf"));
  return names;
}

Result<> WritePodBundle(const std::string& bundle, const PodBundle& pod) {
  std::error_code error;
  std::filesystem::create_directory(bundle + "/rootfs", error);
  if (error) {
    return Fail(Code::kFailedPrecondition,
                "the sandbox's bundle " + bundle + ": " + error.message());
  }
  WV_TRY_VOID(WriteFileAtomically(bundle + "/hostname", pod.hostname, kForEverybody));
  WV_TRY_VOID(WriteFileAtomically(bundle + "/hosts", pod.hosts, kForEverybody));
  WV_TRY_VOID(WriteFileAtomically(bundle + "/resolv.conf", pod.resolv_conf, kForEverybody));
  return WriteFileAtomically(bundle + "/config.json", pod.config_json, 0600);
}

}  // namespace wyvern::shim
