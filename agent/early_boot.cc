#include "agent/early_boot.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <sstream>
#include <thread>

#include "agent/boot.h"
#include "base/fd.h"
#include "base/log.h"

namespace wyvern::agent {
namespace {

constexpr char kModules[] = "/modules";
constexpr char kList[] = "/modules/list";
constexpr char kNewRoot[] = "/newroot";
// Devices appear while their driver probes, which is not over when its module is loaded.
constexpr auto kDeviceTimeout = std::chrono::seconds(10);
constexpr auto kDevicePoll = std::chrono::milliseconds(1);

Result<> MountAt(const char* type, const char* target) {
  (void)mkdir(target, 0755);
  // The kernel mounts no devtmpfs for an initramfs, but another mount there is as good.
  if (mount(type, target, type, MS_NOSUID, nullptr) != 0 && errno != EBUSY) {
    return SysError(std::string("mount ") + type + " on " + target);
  }
  return {};
}

Result<> LoadModule(const std::string& path) {
  WV_TRY(const UniqueFd file, Open(path, O_RDONLY));
  if (syscall(SYS_finit_module, file.get(), "", 0) != 0 && errno != EEXIST) {
    return SysError("load the module " + path);
  }
  return {};
}

Result<> LoadModules() {
  WV_TRY(const std::string text, ReadFile(kList));
  WV_TRY(const std::vector<BootModule> modules, ParseModuleList(text));
  for (const BootModule& module : modules) {
    const std::string path = std::string(kModules) + "/" + module.file;
    auto loaded = LoadModule(path);
    if (!loaded && module.required) {
      return loaded;
    }
    if (!loaded) {
      WV_WARN("{}", loaded.error().message());
    }
    (void)unlink(path.c_str());  // its memory is the guest's
  }
  return {};
}

Result<> WaitForDevice(const std::string& path) {
  const auto end = std::chrono::steady_clock::now() + kDeviceTimeout;
  while (access(path.c_str(), F_OK) != 0) {
    if (std::chrono::steady_clock::now() >= end) {
      return Fail(Code::kDeadlineExceeded, "the root device " + path +
                                               " did not appear; does this kernel have all drivers "
                                               "of virtio-pci and virtio-pmem?");
    }
    std::this_thread::sleep_for(kDevicePoll);
  }
  return {};
}

Result<> MountRoot(const RootMount& root) {
  (void)mkdir(kNewRoot, 0755);
  WV_TRY_VOID(WaitForDevice(root.device));
  const auto attempt = [&root](const std::string& options) {
    return mount(root.device.c_str(), kNewRoot, root.type.c_str(), MS_RDONLY, options.c_str()) == 0;
  };
  if (attempt(root.options)) {
    return {};
  }
  const int refused = errno;
  const std::string plain = WithoutDax(root.options);
  if (refused == EINVAL && plain != root.options && attempt(plain)) {
    WV_WARN("this kernel mounts the root without DAX: its pages are in memory twice");
    return {};
  }
  return SysErrorFrom(
      refused, "mount the root " + root.device + " (" + root.type + ", " + root.options + ")");
}

// The initramfs cannot be unmounted: what is in it is removed, and the new root is moved over it.
Result<> SwitchRoot(const std::string& init) {
  (void)umount2("/proc", MNT_DETACH);
  (void)umount2("/dev", MNT_DETACH);
  (void)unlink(kList);
  (void)rmdir(kModules);
  (void)unlink("/init");
  if (chdir(kNewRoot) != 0 || mount(".", "/", nullptr, MS_MOVE, nullptr) != 0 || chroot(".") != 0 ||
      chdir("/") != 0) {
    return SysError("switch to the guest's root");
  }
  // The agent opens its console itself, as it does where the kernel has none to give.
  for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; ++fd) {
    (void)fcntl(fd, F_SETFD, FD_CLOEXEC);
  }
  std::string name = init;
  const std::array<char*, 2> arguments = {name.data(), nullptr};
  execv(name.c_str(), arguments.data());
  return SysError("run " + init);
}

}  // namespace

Result<std::vector<BootModule>> ParseModuleList(const std::string& text) {
  std::vector<BootModule> modules;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const size_t space = line.find(' ');
    const std::string file = line.substr(0, space);
    const std::string need = space == std::string::npos ? "" : line.substr(space + 1);
    if (file.empty() || file.find('/') != std::string::npos ||
        (need != "required" && need != "optional")) {
      return Fail(Code::kInvalidArgument, "the initramfs's list of modules is damaged: " + line);
    }
    modules.push_back({.file = file, .required = need == "required"});
  }
  return modules;
}

Result<RootMount> RootFromCommandLine(const std::map<std::string, std::string>& words) {
  const auto word = [&words](const char* name, const char* otherwise) {
    const auto found = words.find(name);
    return found == words.end() ? std::string(otherwise) : found->second;
  };
  RootMount root{.device = word("root", ""),
                 .type = word("rootfstype", "erofs"),
                 .options = word("rootflags", ""),
                 .init = word("init", "/sbin/wyvern-agent")};
  if (!root.device.starts_with("/dev/")) {
    return Fail(Code::kInvalidArgument,
                "the kernel's command line has no root=/dev/…: \"" + root.device + "\"");
  }
  return root;
}

std::string WithoutDax(const std::string& options) {
  std::string rest;
  std::istringstream words(options);
  for (std::string word; std::getline(words, word, ',');) {
    if (word != "dax" && !word.starts_with("dax=")) {
      rest += (rest.empty() ? "" : ",") + word;
    }
  }
  return rest;
}

bool InInitramfs() {
  return access(kList, F_OK) == 0;
}

Result<> EarlyBoot() {
  WV_TRY_VOID(MountAt("devtmpfs", "/dev"));
  WV_TRY_VOID(MountAt("proc", "/proc"));
  WV_TRY(const std::string cmdline, ReadFile("/proc/cmdline"));
  const auto words = ParseKernelCommandLine(cmdline);
  SetLogLevel(LogLevelFrom(words));
  WV_TRY(const RootMount root, RootFromCommandLine(words));
  WV_TRY_VOID(LoadModules());
  WV_TRY_VOID(MountRoot(root));
  return SwitchRoot(root.init);
}

}  // namespace wyvern::agent
