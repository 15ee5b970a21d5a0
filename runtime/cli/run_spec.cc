#include "cli/run_spec.h"

#include <arpa/inet.h>
#include <sys/stat.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

namespace wyvern::cli {

namespace {

using Json = nlohmann::json;

// What docker gives a container by default.
constexpr const char* kCapabilities[] = {
    "CAP_CHOWN",   "CAP_DAC_OVERRIDE", "CAP_FSETID",           "CAP_FOWNER",
    "CAP_MKNOD",   "CAP_NET_RAW",      "CAP_SETGID",           "CAP_SETUID",
    "CAP_SETFCAP", "CAP_SETPCAP",      "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT",
    "CAP_KILL",    "CAP_AUDIT_WRITE"};

constexpr const char* kPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

Json DefaultMounts() {
  return Json::array({
      {{"destination", "/proc"},
       {"type", "proc"},
       {"source", "proc"},
       {"options", {"nosuid", "noexec", "nodev"}}},
      {{"destination", "/dev"},
       {"type", "tmpfs"},
       {"source", "tmpfs"},
       {"options", {"nosuid", "strictatime", "mode=755", "size=65536k"}}},
      {{"destination", "/dev/pts"},
       {"type", "devpts"},
       {"source", "devpts"},
       {"options", {"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}}},
      {{"destination", "/dev/shm"},
       {"type", "tmpfs"},
       {"source", "shm"},
       {"options", {"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}}},
      {{"destination", "/dev/mqueue"},
       {"type", "mqueue"},
       {"source", "mqueue"},
       {"options", {"nosuid", "noexec", "nodev"}}},
      {{"destination", "/sys"},
       {"type", "sysfs"},
       {"source", "sysfs"},
       {"options", {"nosuid", "noexec", "nodev", "ro"}}},
      {{"destination", "/sys/fs/cgroup"},
       {"type", "cgroup"},
       {"source", "cgroup"},
       {"options", {"nosuid", "noexec", "nodev", "relatime", "ro"}}},
  });
}

Result<Json> VolumeMount(const std::string& volume) {
  const size_t colon = volume.find(':');
  if (colon == std::string::npos || colon == 0) {
    return Fail(Code::kInvalidArgument, "--volume is HOST:GUEST[:ro], not \"" + volume + "\"");
  }
  std::string guest = volume.substr(colon + 1);
  bool read_only = false;
  if (guest.ends_with(":ro")) {
    read_only = true;
    guest.resize(guest.size() - 3);
  } else if (guest.ends_with(":rw")) {
    guest.resize(guest.size() - 3);
  }
  if (guest.empty() || guest[0] != '/') {
    return Fail(Code::kInvalidArgument,
                "--volume " + volume + ": the path in the guest must be absolute");
  }
  std::error_code error;
  const auto host = std::filesystem::canonical(volume.substr(0, colon), error);
  if (error) {
    return SysErrorFrom(error.value(), "--volume " + volume.substr(0, colon));
  }
  return Json{{"destination", guest},
              {"type", "bind"},
              {"source", host.string()},
              {"options", {"rbind", read_only ? "ro" : "rw"}}};
}

// A directory of the user's gets no file for it to be mounted on.
bool WantsResolvConf(const RunOptions& options, const Image& image) {
  std::error_code error;
  return options.net == "user" &&
         (!image.is_directory ||
          std::filesystem::exists(image.layers.front() + "/etc/resolv.conf", error));
}

Result<Json> MakeMounts(const RunOptions& options, const Image& image) {
  Json mounts = DefaultMounts();
  if (WantsResolvConf(options, image)) {
    mounts.push_back({{"destination", "/etc/resolv.conf"},
                      {"type", "bind"},
                      {"source", "resolv.conf"},
                      {"options", {"bind", "ro"}}});
  }
  for (const std::string& volume : options.volumes) {
    WV_TRY(Json mount, VolumeMount(volume));
    mounts.push_back(std::move(mount));
  }
  return mounts;
}

void SetEnv(std::vector<std::string>& env, const std::string& entry) {
  const std::string name = entry.substr(0, entry.find('=') + 1);
  std::erase_if(env, [&name](const std::string& old) { return old.starts_with(name); });
  env.push_back(entry);
}

std::vector<std::string> MakeEnv(const RunOptions& options, const Image& image) {
  std::vector<std::string> env = {kPath};
  if (options.tty) {
    env.emplace_back("TERM=xterm");
  }
  for (const std::string& entry : image.config.env) {
    if (entry.find('=') != std::string::npos) {
      SetEnv(env, entry);
    }
  }
  for (const std::string& entry : options.env) {
    if (entry.find('=') != std::string::npos) {
      SetEnv(env, entry);
    } else if (const char* value =
                   getenv(entry.c_str())) {  // NOLINT(concurrency-mt-unsafe): before any thread
      SetEnv(env, entry + "=" + value);
    }
  }
  return env;
}

std::vector<std::string> MakeArguments(const RunOptions& options, const Image& image) {
  std::vector<std::string> args = image.config.entrypoint;
  const std::vector<std::string>& command =
      options.command.empty() ? image.config.command : options.command;
  args.insert(args.end(), command.begin(), command.end());
  return args;
}

Result<Json> MakeProcess(const RunOptions& options, const Image& image) {
  const std::vector<std::string> args = MakeArguments(options, image);
  if (args.empty()) {
    return Fail(Code::kInvalidArgument,
                "the image names no command: give one after \"--\", as in: wyvern run " +
                    options.source + " -- sh");
  }
  const std::string user = options.user.empty() ? image.config.user : options.user;
  WV_TRY(const runtime::UserIds ids, ResolveUser(image, user));
  std::string cwd = options.cwd.empty() ? image.config.cwd : options.cwd;
  if (cwd.empty()) {
    cwd = "/";
  }
  if (cwd[0] != '/') {
    return Fail(Code::kInvalidArgument, "--cwd must be an absolute path, not \"" + cwd + "\"");
  }
  Json capabilities;
  for (const char* set : {"bounding", "effective", "permitted"}) {
    capabilities[set] = kCapabilities;
  }
  return Json{
      {"terminal", options.tty},
      {"user", {{"uid", ids.uid}, {"gid", ids.gid}, {"additionalGids", ids.groups}}},
      {"args", args},
      {"env", MakeEnv(options, image)},
      {"cwd", cwd},
      {"capabilities", capabilities},
      {"noNewPrivileges", true},
      {"rlimits", Json::array({{{"type", "RLIMIT_NOFILE"}, {"hard", 1024}, {"soft", 1024}}})}};
}

Json MakeLinux(const RunOptions& options) {
  Json namespaces = Json::array();
  for (const char* type : {"pid", "ipc", "uts", "mount", "network", "cgroup"}) {
    if (options.net != "user" || std::string_view(type) != "network") {
      namespaces.push_back({{"type", type}});
    }
  }
  return Json{{"namespaces", namespaces},
              {"resources", {{"devices", Json::array({{{"allow", false}, {"access", "rwm"}}})}}},
              {"maskedPaths",
               {"/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/sched_debug", "/sys/firmware"}},
              {"readonlyPaths",
               {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}}};
}

uint16_t PortOf(std::string_view text) {
  uint16_t port = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
  return error == std::errc() && end == text.data() + text.size() ? port : 0;
}

}  // namespace

Result<std::vector<runtime::PublishedPort>> PublishedPorts(const RunOptions& options) {
  if (!options.publish.empty() && options.net != "user") {
    return Fail(Code::kInvalidArgument, "--publish needs --net user");
  }
  std::vector<runtime::PublishedPort> ports;
  for (const std::string& text : options.publish) {
    runtime::PublishedPort port;
    std::string_view rest = text;
    if (rest.ends_with("/udp") || rest.ends_with("/tcp")) {
      port.udp = rest.ends_with("/udp");
      rest.remove_suffix(4);
    }
    const size_t guest = rest.rfind(':');
    if (guest != std::string_view::npos) {
      port.guest = PortOf(rest.substr(guest + 1));
      rest = rest.substr(0, guest);
    }
    if (const size_t host = rest.rfind(':'); host != std::string_view::npos) {
      port.address = rest.substr(0, host);
      rest = rest.substr(host + 1);
    }
    port.host = PortOf(rest);
    in_addr address{};
    if (port.guest == 0 || port.host == 0 ||
        (text.find(':') != text.rfind(':') &&
         inet_pton(AF_INET, port.address.c_str(), &address) != 1)) {
      return Fail(Code::kInvalidArgument,
                  "--publish is [ADDRESS:]HOST:GUEST[/udp] with ports from 1 to 65535, not \"" +
                      text + "\"");
    }
    ports.push_back(std::move(port));
  }
  return ports;
}

Result<std::string> MakeRunSpec(const RunOptions& options, const Image& image) {
  WV_TRY(Json process, MakeProcess(options, image));
  WV_TRY(Json mounts, MakeMounts(options, image));
  const Json spec{{"ociVersion", "1.1.0"},
                  {"process", std::move(process)},
                  {"root", {{"path", "rootfs"}, {"readonly", options.read_only}}},
                  {"hostname", options.hostname},
                  {"mounts", std::move(mounts)},
                  {"linux", MakeLinux(options)}};
  return spec.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace wyvern::cli
