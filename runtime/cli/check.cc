// `wyvern check`: what this host offers, line by line, each with what to do about it.
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/magic.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "api/host_probe.h"
#include "base/fd.h"
#include "cli/commands.h"
#include "config/config.h"

namespace wyvern::cli {

namespace {

enum class Verdict : uint8_t { kOk, kWarning, kMissing };

struct Finding {
  std::string name;
  Verdict verdict = Verdict::kOk;
  std::string text;
  std::string remedy;
};

constexpr int kMinMajor = 6;
constexpr int kMinMinor = 1;

Finding CheckKvm(const api::KvmAnswer& kvm) {
  return {"kvm", kvm.state == api::KvmState::kWorks ? Verdict::kOk : Verdict::kMissing, kvm.text,
          kvm.remedy};
}

Finding CheckKernel() {
  utsname name{};
  uname(&name);
  int major = 0;
  int minor = 0;
  const int parsed =
      sscanf(name.release, "%d.%d", &major, &minor);  // NOLINT(cert-err34-c): checked by the count
  const bool good =
      parsed == 2 && (major > kMinMajor || (major == kMinMajor && minor >= kMinMinor));
  return {"kernel", good ? Verdict::kOk : Verdict::kMissing,
          fmt::format("host kernel {}", name.release),
          good ? "" : "Wyvern needs Linux 6.1 or newer"};
}

Finding CheckCgroups(const std::string& root) {
  struct statfs info {};

  const bool v2 = statfs(root.c_str(), &info) == 0 && info.f_type == CGROUP2_SUPER_MAGIC;
  return {"cgroups", v2 ? Verdict::kOk : Verdict::kMissing,
          v2 ? "cgroup v2 at " + root : "no cgroup v2 at " + root,
          v2 ? "" : "boot with systemd.unified_cgroup_hierarchy=1"};
}

Finding CheckHugeMemory() {
  const std::string text =
      ReadFile("/sys/kernel/mm/transparent_hugepage/shmem_enabled").value_or("");
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

Finding CheckIoUring() {
  // A null argument faults where io_uring is there (EFAULT) and says ENOSYS or EPERM where it is not.
  const bool there = syscall(SYS_io_uring_setup, 1, nullptr) == -1 && errno == EFAULT;
  return {
      "io_uring", there ? Verdict::kOk : Verdict::kWarning,
      there ? "io_uring is available" : "io_uring is not available",
      there
          ? ""
          : "sandboxes do not miss it yet: only virtio-blk uses it, which the VMM's API alone can "
            "attach so far; sysctl kernel.io_uring_disabled=0 allows it"};
}

Finding CheckMemory() {
  struct sysinfo info {};

  sysinfo(&info);
  const uint64_t total = info.totalram * info.mem_unit >> 20U;
  const bool good = total >= 1024;
  return {"memory", good ? Verdict::kOk : Verdict::kWarning, fmt::format("{} MiB of memory", total),
          good ? "" : "a sandbox takes 256 MiB by default: set sandbox.memory lower"};
}

Finding CheckFile(const char* name, const std::string& path, const char* remedy) {
  const bool there = access(path.c_str(), R_OK) == 0;
  return {name, there ? Verdict::kOk : Verdict::kMissing, there ? path : path + " is missing",
          there ? "" : remedy};
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

void Print(const std::vector<Finding>& findings, bool json) {
  nlohmann::json list = nlohmann::json::array();
  for (const Finding& finding : findings) {
    if (json) {
      list.push_back({{"name", finding.name},
                      {"verdict", Mark(finding.verdict)},
                      {"text", finding.text},
                      {"remedy", finding.remedy}});
    } else {
      fmt::print("{:<8} {:<10} {}{}\n", Mark(finding.verdict), finding.name, finding.text,
                 finding.remedy.empty() ? "" : "\n                    → " + finding.remedy);
    }
  }
  if (json) {
    fmt::print("{}\n", list.dump(1));
  }
}

}  // namespace

Result<int> Check(const CheckOptions& options) {
  const api::KvmAnswer kvm = api::ProbeKvm();
  if (options.kvm_only) {
    fmt::print("{}\n", kvm.Line());
    return kvm.state == api::KvmState::kWorks ? 0 : 1;
  }
  WV_TRY(const auto config, runtime::LoadConfig({}));
  const std::vector<Finding> findings = {
      CheckKvm(kvm),
      CheckKernel(),
      CheckCgroups(config->cgroup_root),
      CheckHugeMemory(),
      CheckIoUring(),
      CheckMemory(),
      CheckFile("guest", config->sandbox.kernel,
                "build it with deploy/guest/build-kernel.sh, or set sandbox.kernel"),
      CheckFile("image", config->sandbox.image,
                "build it with deploy/guest/build-image.sh, or set sandbox.image"),
      CheckFile("vmm", config->paths.vmm, "install Wyvern, or set paths.vmm"),
      CheckFile("fs", config->paths.fs, "install Wyvern, or set paths.fs"),
      CheckFile("anchor", config->paths.anchor, "install Wyvern, or set paths.anchor"),
  };
  Print(findings, options.json);
  for (const Finding& finding : findings) {
    if (finding.verdict == Verdict::kMissing) {
      return 1;
    }
  }
  return 0;
}

}  // namespace wyvern::cli
