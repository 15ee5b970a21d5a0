#include "agent/block_disk.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <filesystem>
#include <system_error>
#include <thread>

#include "agent/crun.h"
#include "base/fd.h"

namespace wyvern::agent {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr milliseconds kFindPause(5);
constexpr milliseconds kBusyPause(20);
constexpr milliseconds kBusyLimit(2000);
constexpr size_t kMaxAttribute = 64;
constexpr uint64_t kSector = 512;

constexpr uint64_t kMountFlags = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_SYNCHRONOUS |
                                 MS_DIRSYNC | MS_NOATIME | MS_NODIRATIME | MS_RELATIME |
                                 MS_STRICTATIME | MS_LAZYTIME;

std::string Attribute(const std::string& path) {
  std::string text = ReadFile(path, kMaxAttribute).value_or("");
  while (!text.empty() && text.back() == '\n') {
    text.pop_back();
  }
  return text;
}

template <typename T>
std::optional<T> Number(std::string_view text) {
  T value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() ? std::optional(value)
                                                                  : std::nullopt;
}

std::optional<DiskNode> ReadDisk(const std::string& directory, const std::string& name) {
  const std::string numbers = Attribute(directory + "/dev");
  const size_t colon = numbers.find(':');
  if (colon == std::string::npos) {
    return std::nullopt;
  }
  const auto major = Number<uint32_t>(std::string_view(numbers).substr(0, colon));
  const auto minor = Number<uint32_t>(std::string_view(numbers).substr(colon + 1));
  const auto sectors = Number<uint64_t>(Attribute(directory + "/size"));
  if (!major || !minor || !sectors) {
    return std::nullopt;
  }
  return DiskNode{name, *major, *minor, *sectors * kSector, Attribute(directory + "/ro") == "1"};
}

std::string Joined(const std::string& options, std::string_view word) {
  return options.empty() ? std::string(word) : options + "," + std::string(word);
}

bool HasOption(const std::string& options, std::string_view word) {
  return ("," + options + ",").find("," + std::string(word) + ",") != std::string::npos;
}

bool HasJournal(const std::string& filesystem) {
  return filesystem == "ext3" || filesystem == "ext4" || filesystem == "xfs";
}

Result<> Mount(const std::string& source, const DiskMount& what, const std::string& options) {
  if (mount(source.c_str(), what.target.c_str(), what.filesystem.c_str(), what.flags,
            options.empty() ? nullptr : options.c_str()) == 0) {
    return {};
  }
  const int number = errno;
  if (number == ENODEV) {
    return Fail(Code::kUnimplemented, fmt::format("the guest's kernel has no {}", what.filesystem));
  }
  auto error = SysErrorFrom(
      number, fmt::format("the guest's kernel refuses to mount the disk as {}", what.filesystem));
  return tl::unexpected(std::move(error).value().WithCode(Code::kFailedPrecondition));
}

void WriteBack(const std::string& target, DiskLeft& left) {
  const auto root = Open(target, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  if (!root) {
    left.lost = root.error().message();
  } else if (syncfs(root->get()) != 0) {
    left.lost = SysError("syncfs").value().message();
  }
}

// True: somebody holds it.
bool Unmount(const std::string& target) {
  const auto deadline = steady_clock::now() + kBusyLimit;
  while (umount2(target.c_str(), UMOUNT_NOFOLLOW) != 0) {
    if (errno != EBUSY) {
      return false;  // not mounted
    }
    // A container that is being made has a copy of our mounts until it has its own root.
    if (steady_clock::now() > deadline) {
      (void)umount2(target.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW);
      return true;
    }
    std::this_thread::sleep_for(kBusyPause);
  }
  return false;
}

// The file system may be mounted in a namespace of others still, and the disk may have a cache.
void Flush(const std::string& node, dev_t number, DiskLeft& left) {
  const auto claimed = Open(node, O_RDONLY | O_EXCL);
  left.in_use |= !claimed && claimed.error().sys_errno() == EBUSY;
  const auto disk = Open(node, O_RDONLY);
  const auto info = disk ? Fstat(*disk) : Result<struct stat>();
  if (!disk || !info || !S_ISBLK(info->st_mode) || info->st_rdev != number) {
    return;  // gone already
  }
  if (fsync(disk->get()) != 0 && left.lost.empty()) {
    left.lost = SysError("fsync").value().message();
  }
}

// One line; see Crun::AskSelf.
int Answer(const Result<std::string>& answer) {
  const FdRef out(kAnswerFd);
  if (answer) {
    (void)WriteAll(out, *answer);
    return 0;
  }
  (void)WriteAll(
      out, fmt::format("{} {}", static_cast<int>(answer.error().code()), answer.error().message()));
  return 1;
}

// sys, serial, milliseconds, file system, flags, options, target
Result<std::string> Add(const std::vector<std::string>& args) {
  const auto deadline = Number<uint32_t>(args[3]);
  const auto flags = Number<uint64_t>(args[5]);
  if (!deadline || !flags) {
    return Fail(Code::kInvalidArgument, "--add-disk: not a number");
  }
  WV_TRY(const DiskNode disk, AwaitDisk(args[1], args[2], milliseconds(*deadline)));
  bool ignored = false;
  if (!args[4].empty()) {
    WV_TRY(ignored, MountDisk(disk, {args[4], *flags, args[6], args[7]}));
  }
  return fmt::format("{} {} {} {} {}", disk.name, disk.major, disk.minor, disk.bytes,
                     ignored ? 1 : 0);
}

// node, major, minor, target
Result<std::string> Leave(const std::vector<std::string>& args) {
  const auto major = Number<uint32_t>(args[2]);
  const auto minor = Number<uint32_t>(args[3]);
  if (!major || !minor) {
    return Fail(Code::kInvalidArgument, "--leave-disk: not a number");
  }
  const DiskLeft left = LeaveDisk(args[1], *major, *minor, args[4]);
  return fmt::format("{} {}", left.in_use ? 1 : 0, left.lost);
}

// sys, serial, target, "1": grow
Result<std::string> Usage(const std::vector<std::string>& args) {
  if (args[4] == "1") {
    const auto disk = FindDisk(args[1], args[2]);
    if (!disk.has_value()) {
      return Fail(Code::kNotFound, "the disk is gone");
    }
    WV_TRY_VOID(GrowFilesystem(args[3], disk->bytes));
  }
  return UsageOf(args[3]);
}

}  // namespace

bool IsSerial(std::string_view text) {
  return !text.empty() && text.size() <= kMaxSerial && std::ranges::all_of(text, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-';
  });
}

bool AreMountFlags(uint64_t flags) {
  return (flags & ~kMountFlags) == 0;
}

std::vector<std::string> BlockFilesystems(std::string_view proc_filesystems) {
  constexpr size_t kMost = 64;
  constexpr size_t kLongest = 32;
  std::vector<std::string> out;
  while (!proc_filesystems.empty() && out.size() < kMost) {
    const size_t end = std::min(proc_filesystems.find('\n'), proc_filesystems.size());
    std::string_view line = proc_filesystems.substr(0, end);
    proc_filesystems.remove_prefix(std::min(end + 1, proc_filesystems.size()));
    // "nodev\tproc", "\text4"
    if (line.size() > 1 && line.size() <= kLongest && line.front() == '\t') {
      out.emplace_back(line.substr(1));
    }
  }
  return out;
}

std::optional<DiskNode> FindDisk(const std::string& sys, std::string_view serial) {
  const std::string block = sys + "/block";
  std::error_code error;
  for (std::filesystem::directory_iterator it(block, error), end; !error && it != end;
       it.increment(error)) {
    const std::string directory = it->path().string();
    if (Attribute(directory + "/serial") == serial) {
      return ReadDisk(directory, it->path().filename().string());
    }
  }
  return std::nullopt;
}

Result<DiskNode> AwaitDisk(const std::string& sys, std::string_view serial, milliseconds deadline) {
  const auto end = steady_clock::now() + deadline;
  while (true) {
    if (auto disk = FindDisk(sys, serial); disk.has_value()) {
      return *std::move(disk);
    }
    if (steady_clock::now() >= end) {
      return Fail(Code::kNotFound, fmt::format("no disk with serial {} came within {} ms", serial,
                                               deadline.count()));
    }
    std::this_thread::sleep_for(kFindPause);
  }
}

Result<bool> MountDisk(const DiskNode& disk, const DiskMount& what) {
  const std::string source = "/dev/" + disk.name;
  if (mkdir(what.target.c_str(), 0755) != 0) {
    return SysError("mkdir " + what.target);
  }
  std::string options = what.options;
  // Copies of one image, as snapshots are, have one uuid, and a pod may have several of them.
  if (what.filesystem == "xfs" && !HasOption(options, "nouuid")) {
    options = Joined(options, "nouuid");
  }
  auto mounted = Mount(source, what, options);
  bool ignored = false;
  if (!mounted && mounted.error().sys_errno() == EROFS && disk.read_only &&
      HasJournal(what.filesystem) && !HasOption(options, "norecovery")) {
    mounted = Mount(source, what, Joined(options, "norecovery"));
    ignored = mounted.has_value();
  }
  if (!mounted) {
    (void)rmdir(what.target.c_str());
    return tl::unexpected(std::move(mounted).error());
  }
  return ignored;
}

DiskLeft LeaveDisk(const std::string& node, uint32_t major, uint32_t minor,
                   const std::string& target) {
  DiskLeft left;
  if (!target.empty()) {
    WriteBack(target, left);
    left.in_use = Unmount(target);
    (void)rmdir(target.c_str());
  }
  Flush("/dev/" + node, makedev(major, minor), left);
  return left;
}

std::optional<int> RunDiskCall(const std::vector<std::string>& args) {
  if (args.size() == 8 && args[0] == "--add-disk") {
    return Answer(Add(args));
  }
  if (args.size() == 5 && args[0] == "--leave-disk") {
    return Answer(Leave(args));
  }
  if (args.size() == 5 && args[0] == "--disk-usage") {
    return Answer(Usage(args));
  }
  return std::nullopt;
}

}  // namespace wyvern::agent
