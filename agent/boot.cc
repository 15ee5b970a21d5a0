#include "agent/boot.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
// After sys/socket.h, which it needs.
#include <linux/vm_sockets.h>

#include <cerrno>
#include <cstring>

#include "agent/kernel_files.h"
#include "agent/memory_hotplug.h"

namespace wyvern::agent {
namespace {

struct MountEntry {
  const char* type;
  const char* target;
  unsigned long flags;
  const char* options;
  bool required;
};

constexpr unsigned long kNoExec = MS_NOSUID | MS_NODEV | MS_NOEXEC;

constexpr MountEntry kMounts[] = {
    {"proc", "/proc", kNoExec, nullptr, true},
    {"sysfs", "/sys", kNoExec, nullptr, true},
    {"devtmpfs", "/dev", MS_NOSUID, "mode=0755", true},
    {"devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "gid=5,mode=620,ptmxmode=666", true},
    {"tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777", true},
    {"mqueue", "/dev/mqueue", kNoExec, nullptr, false},
    {"cgroup2", "/sys/fs/cgroup", kNoExec, "nsdelegate,memory_recursiveprot", true},
    {"bpf", "/sys/fs/bpf", kNoExec, "mode=0700", false},
    {"tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=0755", true},
    {"tmpfs", "/tmp", MS_NOSUID | MS_NODEV, "mode=1777", true},
};

Result<> MountAll() {
  for (const MountEntry& entry : kMounts) {
    (void)mkdir(entry.target, 0755);  // below /dev; others are in the image
    if (mount(entry.type, entry.target, entry.type, entry.flags, entry.options) == 0) {
      continue;
    }
    // The kernel mounts devtmpfs itself where it is configured to.
    if (errno != EBUSY && entry.required) {
      return SysError(std::string("mount ") + entry.type + " on " + entry.target);
    }
  }
  return {};
}

// The kernel opens no console for us when its root has no device nodes.
void OpenConsole() {
  if (fcntl(STDERR_FILENO, F_GETFD) >= 0) {
    return;
  }
  // NOLINTBEGIN(android-cloexec-open): they become the standard streams, ours and our children's.
  const int null = open("/dev/null", O_RDWR);  // becomes 0: nobody reads here
  const int console = open("/dev/console", O_WRONLY | O_NOCTTY);
  // NOLINTEND(android-cloexec-open)
  const int log = console >= 0 ? console : null;
  for (int fd = 0; fd <= STDERR_FILENO; ++fd) {
    if (fcntl(fd, F_GETFD) < 0) {
      (void)dup2(fd == 0 ? null : log, fd);
    }
  }
}

Result<> EnableControllers() {
  WV_TRY(std::string controllers, ReadFile("/sys/fs/cgroup/cgroup.controllers"));
  size_t begin = 0;
  while (begin < controllers.size()) {
    const size_t end = controllers.find_first_of(" \n", begin);
    const std::string name = controllers.substr(begin, end - begin);
    if (!name.empty()) {
      // One by one: a controller that refuses does not take the others with it.
      if (auto enabled = WriteFile("/sys/fs/cgroup/cgroup.subtree_control", "+" + name); !enabled) {
        WV_WARN("cgroup controller {}: {}", name, enabled.error().message());
      }
    }
    if (end == std::string::npos) {
      break;
    }
    begin = end + 1;
  }
  return {};
}

Result<> LoopbackUp() {
  const UniqueFd fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) {
    return SysError("socket(AF_INET)");
  }
  ifreq request{};
  std::strncpy(request.ifr_name, "lo", IFNAMSIZ - 1);
  request.ifr_flags = IFF_UP | IFF_RUNNING;
  if (ioctl(fd.get(), SIOCSIFFLAGS, &request) != 0) {
    return SysError("bring lo up");
  }
  return {};
}

// A write to the host's shared image would report success and be dropped: better refused here.
void ProtectRoot(const std::map<std::string, std::string>& cmdline) {
  const auto root = cmdline.find("root");
  if (root == cmdline.end() || !root->second.starts_with("/dev/")) {
    return;
  }
  const auto device = Open(root->second, O_RDONLY);
  const int read_only = 1;
  if (!device || ioctl(device->get(), BLKROSET, &read_only) != 0) {
    WV_WARN("{} could not be set read-only", root->second);
  }
}

// What the kernel gives its first process is meant for a login shell on a small machine; containers inherit it where their
// specification says nothing.
void RaiseLimits() {
  const rlimit files{.rlim_cur = 1U << 20, .rlim_max = 1U << 20};
  (void)setrlimit(RLIMIT_NOFILE, &files);
  const rlimit processes{.rlim_cur = RLIM_INFINITY, .rlim_max = RLIM_INFINITY};
  (void)setrlimit(RLIMIT_NPROC, &processes);
}

}  // namespace

std::map<std::string, std::string> ParseKernelCommandLine(const std::string& text) {
  std::map<std::string, std::string> words;
  std::string word;
  bool quoted = false;
  const auto add = [&words, &word] {
    const size_t equals = word.find('=');
    if (!word.empty()) {
      words[word.substr(0, equals)] =
          equals == std::string::npos ? std::string() : word.substr(equals + 1);
    }
    word.clear();
  };
  for (const char c : text) {
    if (c == '"') {
      quoted = !quoted;
    } else if ((c == ' ' || c == '\n' || c == '\t') && !quoted) {
      add();
    } else {
      word.push_back(c);
    }
  }
  add();
  return words;
}

LogLevel LogLevelFrom(const std::map<std::string, std::string>& words) {
  const auto found = words.find("wyvern.log");
  return found == words.end() ? LogLevel::kInfo
                              : ParseLogLevel(found->second).value_or(LogLevel::kInfo);
}

Result<UniqueFd> ListenVsock(uint32_t port) {
  UniqueFd fd(socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) {
    return SysError("socket(AF_VSOCK)");
  }
  sockaddr_vm address{};
  address.svm_family = AF_VSOCK;
  address.svm_cid = VMADDR_CID_ANY;
  address.svm_port = port;
  if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return SysError("bind vsock port " + std::to_string(port));
  }
  if (listen(fd.get(), SOMAXCONN) != 0) {
    return SysError("listen on vsock port " + std::to_string(port));
  }
  return fd;
}

Result<> SetUpMachine() {
  umask(022);
  (void)prctl(PR_SET_DUMPABLE, 0);
  (void)reboot(RB_DISABLE_CAD);
  WV_TRY_VOID(MountAll());
  OpenConsole();
  RaiseLimits();
  const auto cmdline = ParseKernelCommandLine(ReadFile("/proc/cmdline").value_or(""));
  SetLogLevel(LogLevelFrom(cmdline));
  ProtectRoot(cmdline);
  // Off by default on a small machine; who asks for huge pages gets them.
  (void)WriteFile("/sys/kernel/mm/transparent_hugepage/enabled", "madvise");
  // Else Linux (6.7 and later) keeps up to an eighth of the memory with the processor that freed it, and tells the host of none of it.
  (void)WriteFile("/proc/sys/vm/percpu_pagelist_high_fraction", "1024");
  SetMemoryPolicy(KernelFiles(), cmdline);
  WV_TRY_VOID(EnableControllers());
  return LoopbackUp();
}

Result<> MakeRuntimeDirs(const std::string& root) {
  for (const char* name : {"", "/containers", "/crun", "/scratch"}) {
    const std::string path = root + name;
    // Only root looks into bundles and terminals; the share must be reachable for containers with user namespaces.
    if (mkdir(path.c_str(), *name == '\0' ? 0755 : 0700) != 0 && errno != EEXIST) {
      return SysError("mkdir " + path);
    }
  }
  return {};
}

}  // namespace wyvern::agent
