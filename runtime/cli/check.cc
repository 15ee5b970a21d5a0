// `wyvern check`: what this host offers, line by line, each with what to do about it.
#include "cli/check.h"

#include <fmt/format.h>
#include <linux/magic.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/fd.h"
#include "cli/commands.h"

namespace wyvern::cli {

namespace {

constexpr int kMinMajor = 6;
constexpr int kMinMinor = 1;
constexpr uint64_t kEnoughMiB = 1024;

Finding CheckKvm(const api::KvmAnswer& kvm) {
  return {"kvm", kvm.state == api::KvmState::kWorks ? Verdict::kOk : Verdict::kMissing, kvm.text,
          kvm.remedy};
}

Finding CheckKernel(const std::string& release) {
  int major = 0;
  int minor = 0;
  const int parsed = sscanf(release.c_str(), "%d.%d", &major,
                            &minor);  // NOLINT(cert-err34-c): checked by the count
  const bool good =
      parsed == 2 && (major > kMinMajor || (major == kMinMajor && minor >= kMinMinor));
  return {"kernel", good ? Verdict::kOk : Verdict::kMissing, "host kernel " + release,
          good ? "" : fmt::format("Wyvern needs Linux {}.{} or newer", kMinMajor, kMinMinor)};
}

Finding CheckCgroups(const std::string& root, bool v2) {
  return {"cgroups", v2 ? Verdict::kOk : Verdict::kMissing,
          v2 ? "cgroup v2 at " + root : "no cgroup v2 at " + root,
          v2 ? "" : "boot with systemd.unified_cgroup_hierarchy=1"};
}

Finding CheckHugeMemory(const std::string& text) {
  const size_t open = text.find('[');
  const std::string value =
      open == std::string::npos ? "unknown" : text.substr(open + 1, text.find(']') - open - 1);
  const bool good = value == "advise" || value == "always" || value == "within_size";
  return {
      "shmem-thp", good ? Verdict::kOk : Verdict::kWarning,
      "transparent huge pages for shared memory: " + value,
      good ? ""
           : "faster guests with: echo advise > /sys/kernel/mm/transparent_hugepage/shmem_enabled"};
}

Finding CheckIoUring(bool there) {
  return {
      "io_uring", there ? Verdict::kOk : Verdict::kWarning,
      there ? "io_uring is available" : "io_uring is not available",
      there
          ? ""
          : "sandboxes do not miss it yet: only virtio-blk uses it, which the VMM's API alone can "
            "attach so far; sysctl kernel.io_uring_disabled=0 allows it"};
}

Finding CheckMemory(uint64_t bytes) {
  const uint64_t total = bytes >> 20U;
  const bool good = total >= kEnoughMiB;
  return {"memory", good ? Verdict::kOk : Verdict::kWarning, fmt::format("{} MiB of memory", total),
          good ? "" : "a sandbox takes 256 MiB by default: set sandbox.memory lower"};
}

Finding CheckFile(const char* name, const HostFacts::File& file, const char* remedy) {
  return {name, file.usable ? Verdict::kOk : Verdict::kMissing,
          file.usable ? file.path : file.path + " is missing", file.usable ? "" : remedy};
}

const char* Mark(Verdict verdict) {
  switch (verdict) {
    case Verdict::kOk:
      return "ok";
    case Verdict::kWarning:
      return "warning";
    case Verdict::kMissing:
      return "missing";
  }
  return "";
}

HostFacts LookAtHost(const runtime::Config& config, api::KvmAnswer kvm) {
  HostFacts facts;
  facts.kvm = std::move(kvm);
  utsname name{};
  uname(&name);
  facts.kernel_release = name.release;
  struct statfs cgroups = {};
  facts.cgroup_root = config.cgroup_root;
  facts.cgroup_v2 =
      statfs(config.cgroup_root.c_str(), &cgroups) == 0 && cgroups.f_type == CGROUP2_SUPER_MAGIC;
  facts.shmem_enabled = ReadFile("/sys/kernel/mm/transparent_hugepage/shmem_enabled").value_or("");
  // A null argument faults where io_uring is there (EFAULT) and says ENOSYS or EPERM where it is not.
  facts.io_uring = syscall(SYS_io_uring_setup, 1, nullptr) == -1 && errno == EFAULT;
  struct sysinfo memory = {};
  sysinfo(&memory);
  facts.memory_bytes = uint64_t{memory.totalram} * memory.mem_unit;
  const auto look = [](const std::string& path, int how) {
    return HostFacts::File{path, access(path.c_str(), how) == 0};
  };
  facts.kernel = look(config.sandbox.kernel, R_OK);
  facts.image = look(config.sandbox.image, R_OK);
  facts.vmm = look(config.paths.vmm, X_OK);
  facts.fs = look(config.paths.fs, X_OK);
  facts.anchor = look(config.paths.anchor, X_OK);
  return facts;
}

}  // namespace

std::vector<Finding> FindingsOf(const HostFacts& facts) {
  return {
      CheckKvm(facts.kvm),
      CheckKernel(facts.kernel_release),
      CheckCgroups(facts.cgroup_root, facts.cgroup_v2),
      CheckHugeMemory(facts.shmem_enabled),
      CheckIoUring(facts.io_uring),
      CheckMemory(facts.memory_bytes),
      CheckFile("guest", facts.kernel,
                "build it with deploy/guest/build-kernel.sh, or set sandbox.kernel"),
      CheckFile("image", facts.image,
                "build it with deploy/guest/build-image.sh, or set sandbox.image"),
      CheckFile("vmm", facts.vmm, "install Wyvern, or set paths.vmm"),
      CheckFile("fs", facts.fs, "install Wyvern, or set paths.fs"),
      CheckFile("anchor", facts.anchor, "install Wyvern, or set paths.anchor"),
  };
}

std::vector<Finding> CheckHost(const runtime::Config& config, api::KvmAnswer kvm) {
  return FindingsOf(LookAtHost(config, std::move(kvm)));
}

int StatusOf(const std::vector<Finding>& findings) {
  return std::ranges::any_of(
             findings, [](const Finding& finding) { return finding.verdict == Verdict::kMissing; })
             ? 1
             : 0;
}

std::string Render(const std::vector<Finding>& findings, bool json) {
  if (json) {
    nlohmann::json list = nlohmann::json::array();
    for (const Finding& finding : findings) {
      list.push_back({{"name", finding.name},
                      {"verdict", Mark(finding.verdict)},
                      {"text", finding.text},
                      {"remedy", finding.remedy}});
    }
    return list.dump(1) + "\n";
  }
  std::string out;
  for (const Finding& finding : findings) {
    out += fmt::format("{:<8} {:<10} {}{}\n", Mark(finding.verdict), finding.name, finding.text,
                       finding.remedy.empty() ? "" : "\n                    → " + finding.remedy);
  }
  return out;
}

Result<int> Check(const CheckOptions& options) {
  const api::KvmAnswer kvm = api::ProbeKvm();
  if (options.kvm_only) {
    fmt::print("{}\n", kvm.Line());
    return kvm.state == api::KvmState::kWorks ? 0 : 1;
  }
  WV_TRY(const auto config, runtime::LoadConfig({}));
  const std::vector<Finding> findings = CheckHost(*config, kvm);
  fmt::print("{}", Render(findings, options.json));
  return StatusOf(findings);
}

}  // namespace wyvern::cli
