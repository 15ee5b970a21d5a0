#include "cgroup/cgroup.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <limits>
#include <sstream>
#include <string_view>
#include <thread>

#include "cgroup/sum.h"

namespace wyvern::runtime {
namespace {

using std::chrono::milliseconds;

constexpr const char* kMark = "trusted.wyvern";
constexpr std::string_view kMarkMade = "1", kMarkScope = "scope";
constexpr milliseconds kGoneTimeout{2000};
constexpr std::array kHandedOut = {"cpu", "cpuset", "io", "memory", "pids", "hugetlb"};

// Writes without O_CREAT: the files of a cgroup exist or their controller is not there.
Result<> WriteControl(const std::string& path, std::string_view text) {
  WV_TRY(const UniqueFd fd, Open(path, O_WRONLY));
  return WriteAll(fd, text);
}

Result<> MakeOne(const std::string& path) {
  if (mkdir(path.c_str(), 0755) == 0) {
    // Without the mark (a kernel before 5.7) the directory stays when we go: better than removing what is not ours.
    setxattr(path.c_str(), kMark, kMarkMade.data(), kMarkMade.size(), 0);
    return {};
  }
  if (errno != EEXIST) {
    return SysError("mkdir " + path);
  }
  return {};
}

// Controllers for the children of `directory`; each on its own, since one that is missing would fail all.
void EnableControllers(const std::string& directory) {
  for (const char* controller : kHandedOut) {
    static_cast<void>(
        WriteControl(directory + "/cgroup.subtree_control", fmt::format("+{}", controller)));
  }
}

Result<> MakeAll(const std::string& root, const std::string& path) {
  for (size_t slash = path.find('/', 1);; slash = path.find('/', slash + 1)) {
    const std::string parent_of =
        root + path.substr(0, path.rfind('/', slash == std::string::npos ? slash : slash - 1));
    EnableControllers(parent_of);
    WV_TRY_VOID(MakeOne(root + path.substr(0, slash)));
    if (slash == std::string::npos) {
      return {};
    }
  }
}

Result<> RemoveOne(const std::string& directory) {
  const auto deadline = std::chrono::steady_clock::now() + kGoneTimeout;
  while (rmdir(directory.c_str()) != 0) {
    if (errno == ENOENT) {
      return {};
    }
    if (errno != EBUSY) {
      return SysError("rmdir " + directory);
    }
    if (std::chrono::steady_clock::now() > deadline) {
      return Fail(Code::kDeadlineExceeded, directory + ": its processes do not end after SIGKILL");
    }
    std::this_thread::sleep_for(milliseconds(5));
  }
  return {};
}

// Empty: not there, or not made by us.
std::string MarkOf(const std::string& directory) {
  std::array<char, 16> value{};
  const ssize_t size = getxattr(directory.c_str(), kMark, value.data(), value.size());
  return size <= 0 ? std::string() : std::string(value.data(), static_cast<size_t>(size));
}

// systemd sees that nothing is in it any more, and must see that before it goes, or it would keep the unit.
bool GoesByItself(const std::string& directory) {
  const auto deadline = std::chrono::steady_clock::now() + kGoneTimeout;
  while (access(directory.c_str(), F_OK) == 0) {
    if (std::chrono::steady_clock::now() > deadline) {
      return false;
    }
    std::this_thread::sleep_for(milliseconds(5));
  }
  return true;
}

// cgroup.kill came with Linux 5.14.
void KillAll(const std::string& directory) {
  static_cast<void>(WriteControl(directory + "/cgroup.kill", "1"));
}

}  // namespace

Result<> CheckCgroupRoot(const std::string& root) {
  struct statfs info = {};
  if (statfs(root.c_str(), &info) != 0) {
    return SysError("cgroup root " + root);
  }
  if (info.f_type != CGROUP2_SUPER_MAGIC) {
    return Fail(Code::kFailedPrecondition,
                fmt::format("{} is not a cgroup v2 hierarchy, and Wyvern needs one: boot with "
                            "systemd.unified_cgroup_hierarchy=1, or mount "
                            "cgroup2 and set cgroup_root in /etc/wyvern/wyvern.yaml",
                            root));
  }
  return {};
}

Result<Cgroup> Cgroup::Make(const std::string& root, const CgroupPlace& place,
                            const std::string& id) {
  const std::string& path = place.path;
  if (place.systemd) {
    WV_TRY_VOID(CheckUnused(root, path));
    Cgroup scope(root + path);
    scope.scope_ = {.name = place.unit, .slice = place.slice, .description = "Wyvern, " + id};
    scope.begun_ = false;
    return scope;
  }
  Result<> made;
  // Another sandbox may remove a shared parent, just empty, between our two mkdirs.
  for (int attempt = 0; attempt < 10; ++attempt) {
    made = MakeAll(root, path);
    if (made.has_value() || made.error().code() != Code::kNotFound) {
      break;
    }
  }
  WV_TRY_VOID_CONTEXT(std::move(made), "making a cgroup");
  Cgroup group(root + path);
  WV_TRY_VOID(CheckUnused(root, path));
  return group;
}

Result<> Cgroup::CheckUnused(const std::string& root, const std::string& path) {
  const auto processes = ReadFile(root + path + "/cgroup.procs", 64U << 20U);
  if (processes.has_value() && !processes->empty()) {
    return Fail(Code::kAlreadyExists,
                fmt::format("cgroup {}{} has processes in it already", root, path));
  }
  return {};
}

Result<UniqueFd> Cgroup::OpenProcs() const {
  const std::lock_guard lock(*mu_);
  if (!begun_) {
    return UniqueFd();
  }
  return Open(directory_ + "/cgroup.procs", O_WRONLY);
}

Result<> Cgroup::Add(pid_t pid) {
  const std::lock_guard lock(*mu_);
  // What is delegated to us is ours to fill.
  return begun_ ? WriteControl(directory_ + "/cgroup.procs", fmt::format("{}", pid)) : Begin(pid);
}

Result<> Cgroup::Begin(pid_t pid) {
  WV_TRY_VOID(StartScope(scope_, pid, UnitProperties(wanted_)));
  const std::string processes = ReadFile(directory_ + "/cgroup.procs", 64U << 20U).value_or("");
  if (("\n" + processes + "\n").find(fmt::format("\n{}\n", pid)) == std::string::npos) {
    return Fail(
        Code::kFailedPrecondition,
        fmt::format("systemd has started {} with process {}, which is not in {}: cgroup_root "
                    "in /etc/wyvern/wyvern.yaml must be the hierarchy that systemd has",
                    scope_.name, pid, directory_));
  }
  setxattr(directory_.c_str(), kMark, kMarkScope.data(), kMarkScope.size(), 0);
  begun_ = true;
  if (wanted_memory_.has_value()) {
    WV_TRY_VOID(LimitMemoryLocked(*wanted_memory_));
  }
  return Write(wanted_);
}

Result<bool> Cgroup::LimitMemory(uint64_t bytes) {
  const std::lock_guard lock(*mu_);
  return LimitMemoryLocked(bytes);
}

Result<bool> Cgroup::LimitMemoryLocked(uint64_t bytes) {
  if (!begun_) {
    wanted_memory_ = bytes;
    return true;
  }
  if (IsScope()) {
    WV_TRY_VOID(SetUnitProperties(
        scope_.name, UnitProperties({.memory_limit = static_cast<int64_t>(std::min(
                                         bytes, uint64_t{std::numeric_limits<int64_t>::max()}))})));
  }
  return WriteMemory(bytes);
}

Result<bool> Cgroup::WriteMemory(uint64_t bytes) const {
  auto written = WriteControl(directory_ + "/memory.max", fmt::format("{}", bytes));
  if (!written.has_value() && written.error().code() == Code::kNotFound) {
    return false;
  }
  WV_TRY_VOID(std::move(written));
  static_cast<void>(WriteControl(directory_ + "/memory.oom.group", "1"));
  return true;
}

Result<> Cgroup::Apply(const Limits& limits) {
  const std::lock_guard lock(*mu_);
  if (!begun_) {
    wanted_ = Merged(std::move(wanted_), limits);
    return {};
  }
  if (IsScope()) {
    WV_TRY_VOID(SetUnitProperties(scope_.name, UnitProperties(limits)));
  }
  return Write(limits);
}

std::set<std::string> Cgroup::Controllers() const {
  const std::lock_guard lock(*mu_);
  if (!begun_) {
    return {kHandedOut.begin(), kHandedOut.end()};
  }
  std::set<std::string> out;
  std::istringstream names(ReadFile(directory_ + "/cgroup.controllers", size_t{4096}).value_or(""));
  for (std::string name; names >> name;) {
    out.insert(name);
  }
  return out;
}

Result<> Cgroup::Write(const Limits& limits) const {
  const bool has_bfq = access((directory_ + "/io.bfq.weight").c_str(), F_OK) == 0;
  for (const ControlWrite& write : ControlWrites(limits, has_bfq)) {
    auto written = WriteControl(directory_ + "/" + write.file, write.text);
    if (written.has_value()) {
      continue;
    }
    if (written.error().code() != Code::kNotFound) {
      const bool no_disk = written.error().sys_errno() == ENODEV && write.file.starts_with("io.");
      return tl::unexpected(std::move(written).error().WithContext(fmt::format(
          "writing '{}' to {}{}", write.text, write.file,
          no_disk ? " (limits are for whole disks of this host, not for partitions)" : "")));
    }
    if (!write.optional) {
      return Fail(
          Code::kFailedPrecondition,
          fmt::format("{} has no {}: the {} controller is not enabled on this host, or not in "
                      "cgroup.subtree_control of a directory above",
                      directory_, write.file, write.file.substr(0, write.file.find('.'))));
    }
  }
  return {};
}

uint64_t Cgroup::OutOfMemoryKills() const {
  constexpr std::string_view kKey = "oom_kill ";
  const auto events = ReadFile(directory_ + "/memory.events", size_t{4096});
  const size_t at = events.has_value() ? events->find(kKey) : std::string::npos;
  uint64_t kills = 0;
  if (at != std::string::npos) {
    std::from_chars(events->data() + at + kKey.size(), events->data() + events->size(), kills);
  }
  return kills;
}

Result<> RemoveCgroup(const std::string& root, const std::string& directory) {
  if (directory.size() <= root.size() + 1 || !directory.starts_with(root + "/")) {
    return Fail(Code::kInvalidArgument, fmt::format("cgroup {} is not below {}", directory, root));
  }
  const std::string mark = MarkOf(directory);
  if (mark.empty()) {
    return {};  // not there, or not made by us
  }
  KillAll(directory);
  if (mark != kMarkScope || !GoesByItself(directory)) {
    WV_TRY_VOID_CONTEXT(RemoveOne(directory), "removing a cgroup");
  }
  for (std::string parent = directory.substr(0, directory.rfind('/')); parent.size() > root.size();
       parent.resize(parent.rfind('/'))) {
    if (MarkOf(parent).empty() || rmdir(parent.c_str()) != 0) {
      break;
    }
  }
  return {};
}

}  // namespace wyvern::runtime
