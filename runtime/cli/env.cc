// `wyvern env`.
#include "cli/env.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/fd.h"
#include "cli/commands.h"
#include "cli/version.h"
#include "guest/elf_file.h"
#include "guest/store.h"
#include "install/manifest.h"
#include "install/places.h"

namespace wyvern::cli {

namespace {

using nlohmann::json;

constexpr int kFormat = 1;
constexpr size_t kMaxKernel = 256U << 20U;

const char* StateName(api::KvmState state) {
  switch (state) {
    case api::KvmState::kWorks:
      return "works";
    case api::KvmState::kInterprets:
      return "interprets";
    case api::KvmState::kUnusable:
      return "unusable";
    case api::KvmState::kAbsent:
      return "absent";
  }
  return "";
}

json OrNull(const std::string& text) {
  return text.empty() ? json() : json(text);
}

json FileObject(const HostFile& file) {
  if (file.path.empty()) {
    return {};
  }
  return {{"path", file.path}, {"bytes", file.bytes ? json(*file.bytes) : json()}};
}

json ProgramObject(const std::string& path) {
  return {{"path", OrNull(path)}, {"present", !path.empty() && access(path.c_str(), X_OK) == 0}};
}

json AsJson(const Environment& environment) {
  json configuration = json::object();
  for (const runtime::EffectiveValue& value : runtime::EffectiveValues(environment.config)) {
    configuration[value.name] = {{"value", value.value}, {"origin", value.origin}};
  }
  json kernel = FileObject(environment.guest_kernel);
  if (kernel.is_object()) {
    kernel["release"] = OrNull(environment.guest_kernel.release);
  }
  json containerd;
  if (environment.containerd) {
    containerd = {{"program", environment.containerd->program},
                  {"version", OrNull(environment.containerd->version)}};
  }
  return {
      {"format", kFormat},
      {"wyvern",
       {{"version", environment.version},
        {"program", OrNull(environment.program)},
        {"installed", OrNull(environment.installed)}}},
      {"host",
       {{"os", OrNull(environment.os)},
        {"kernel", environment.kernel},
        {"machine", environment.machine},
        {"cpus", environment.cpus},
        {"memory_bytes", environment.memory_bytes},
        {"kvm", {{"state", StateName(environment.kvm.state)}, {"text", environment.kvm.text}}}}},
      {"containerd", containerd},
      {"programs",
       {{"vmm", ProgramObject(environment.config.paths.vmm)},
        {"fs", ProgramObject(environment.config.paths.fs)},
        {"anchor", ProgramObject(environment.config.paths.anchor)},
        {"shim", ProgramObject(environment.shim)}}},
      {"guest",
       {{"name", OrNull(environment.guest_name)},
        {"kernel", kernel},
        {"image", FileObject(environment.guest_image)},
        {"initrd", FileObject(environment.guest_initrd)}}},
      {"configuration", configuration},
      {"check", json::parse(Render(environment.findings, /*json=*/true), nullptr,
                            /*allow_exceptions=*/false)}};
}

HostFile LookAtFile(const std::string& path) {
  HostFile file;
  file.path = path;
  struct stat info = {};
  if (!path.empty() && stat(path.c_str(), &info) == 0) {
    file.bytes = static_cast<uint64_t>(info.st_size);
  }
  return file;
}

// PRETTY_NAME of os-release(5), without its quotes.
std::string OsName() {
  const std::string text = ReadFile("/etc/os-release").value_or("");
  constexpr std::string_view kName = "PRETTY_NAME=";
  const size_t at = text.find(kName);
  if (at == std::string::npos || (at > 0 && text[at - 1] != '\n')) {
    return "";
  }
  std::string name = text.substr(at + kName.size(), text.find('\n', at) - at - kName.size());
  std::erase(name, '"');
  return name;
}

// Where containerd would find it, as a rule.
std::string ShimPath() {
  for (const char* path :
       {"/usr/local/bin/containerd-shim-wyvern-v2", "/usr/bin/containerd-shim-wyvern-v2"}) {
    if (access(path, X_OK) == 0) {
      return path;
    }
  }
  return "";
}

}  // namespace

Environment LookAround(const runtime::Config& config) {
  Environment environment;
  environment.version = kVersion;
  std::error_code error;
  environment.program = std::filesystem::read_symlink("/proc/self/exe", error).string();
  if (const auto manifest = ReadManifest(kManifest)) {
    environment.installed = manifest->version;
  }
  utsname name{};
  uname(&name);
  environment.kernel = name.release;
  environment.machine = name.machine;
  environment.os = OsName();
  environment.cpus = static_cast<uint32_t>(sysconf(_SC_NPROCESSORS_ONLN));
  struct sysinfo memory = {};
  sysinfo(&memory);
  environment.memory_bytes = uint64_t{memory.totalram} * memory.mem_unit;
  if (auto containerd = FindContainerd("")) {
    environment.containerd = *std::move(containerd);
  }
  environment.shim = ShimPath();
  environment.guest_name = config.guest.name;
  std::string kernel = config.sandbox.kernel;
  std::string initrd = config.sandbox.initrd;
  if (!config.guest.name.empty()) {
    if (const auto guest = guest::FindGuest(config.paths.guests, config.guest.name)) {
      kernel = guest->kernel_path();
      initrd = guest->initrd_path();
    }
  }
  environment.guest_kernel = LookAtFile(kernel);
  environment.guest_image = LookAtFile(config.sandbox.image);
  environment.guest_initrd = LookAtFile(initrd);
  if (const auto text = ReadFile(kernel, kMaxKernel)) {
    environment.guest_kernel.release = guest::KernelRelease(*text);
  }
  environment.config = config;
  environment.kvm = api::ProbeKvm();
  environment.findings = CheckHost(config, environment.kvm);
  return environment;
}

std::string EnvironmentText(const Environment& environment, bool as_json) {
  const json document = AsJson(environment);
  if (as_json) {
    return document.dump(1, ' ', false, json::error_handler_t::replace) + "\n";
  }
  std::string text;
  const json flat = document.flatten();  // items() refers to it
  for (const auto& [path, value] : flat.items()) {
    std::string name = path.substr(1);
    std::ranges::replace(name, '/', '.');
    text +=
        fmt::format("{}: {}\n", name,
                    value.is_string() ? value.get<std::string>()
                                      : value.dump(-1, ' ', false, json::error_handler_t::replace));
  }
  return text;
}

Result<int> Env(bool json) {
  WV_TRY(const auto config, runtime::LoadConfig({}));
  fmt::print("{}", EnvironmentText(LookAround(*config), json));
  return 0;
}

}  // namespace wyvern::cli
