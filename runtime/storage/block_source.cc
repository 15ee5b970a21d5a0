#include "storage/block_source.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <system_error>
#include <thread>

namespace wyvern::runtime {
namespace {

using std::chrono::steady_clock;

constexpr std::chrono::milliseconds kBusyPause{20};
constexpr std::chrono::milliseconds kBusyLimit{1000};
constexpr uint64_t kSector = 512;  // VIRTIO 1.2 §5.2.4: capacity

tl::unexpected<Error> InUse(const std::string& path, const std::string& by) {
  return Fail(Code::kFailedPrecondition,
              fmt::format("{} is in use by {}: a disk belongs to one who writes, or to several who "
                          "read",
                          path, by));
}

std::string Trimmed(std::string text) {
  while (!text.empty() && text.back() == '\n') {
    text.pop_back();
  }
  return text;
}

// A loop device over that file, of which one that only reads does not hurt a reader; empty: none.
std::string LoopOver(const struct stat& file, bool read_only) {
  std::error_code error;
  for (std::filesystem::directory_iterator it("/sys/block", error), end; !error && it != end;
       it.increment(error)) {
    const std::string directory = it->path().string();
    const auto backing = ReadFile(directory + "/loop/backing_file", 8192);
    struct stat info = {};
    if (!backing.has_value() || stat(Trimmed(*backing).c_str(), &info) != 0 ||
        info.st_dev != file.st_dev || info.st_ino != file.st_ino) {
      continue;
    }
    if (!read_only || Trimmed(ReadFile(directory + "/ro", 16).value_or("")) != "1") {
      return "/dev/" + it->path().filename().string();
    }
  }
  return {};
}

Result<uint64_t> SizeOf(FdRef fd, const struct stat& info) {
  uint64_t bytes = static_cast<uint64_t>(info.st_size);
  if (S_ISBLK(info.st_mode) && ioctl(fd.get(), BLKGETSIZE64, &bytes) != 0) {
    return SysError("ioctl(BLKGETSIZE64)");
  }
  return bytes;
}

// File systems without locks (some of FUSE, old NFS) leave us without that guard only.
Result<> LockImage(FdRef fd, const std::string& path, bool read_only) {
  struct flock lock = {};
  lock.l_type = static_cast<short>(read_only ? F_RDLCK : F_WRLCK);
  lock.l_whence = SEEK_SET;
  if (fcntl(fd.get(), F_OFD_SETLK, &lock) != 0 && (errno == EAGAIN || errno == EACCES)) {
    return InUse(path, "another guest");
  }
  return {};
}

Result<UniqueFd> OpenImage(const std::string& self, const std::string& path,
                           const struct stat& info, bool read_only) {
  WV_TRY_CONTEXT(UniqueFd fd, Open(self, read_only ? O_RDONLY : O_RDWR), path);
  WV_TRY_VOID(LockImage(fd, path, read_only));
  if (const std::string loop = LoopOver(info, read_only); !loop.empty()) {
    return InUse(path, fmt::format("{} of the host", loop));
  }
  return fd;
}

Result<UniqueFd> OpenDevice(const std::string& self, const std::string& path, bool read_only) {
  auto claimed = Open(self, (read_only ? O_RDONLY : O_RDWR) | O_EXCL);
  if (!claimed.has_value()) {
    if (claimed.error().sys_errno() == EBUSY) {
      return InUse(path, "the host (mounted, or claimed otherwise) or another guest");
    }
    return tl::unexpected(std::move(claimed).error().WithContext(path));
  }
  if (!read_only) {
    return claimed;
  }
  // It was nobody's; the claim would keep other readers away.
  WV_TRY_CONTEXT(UniqueFd fd, Open(self, O_RDONLY), path);
  return fd;
}

Result<UniqueFd> OpenOnce(FdRef place, const std::string& path, const struct stat& info,
                          bool read_only) {
  const std::string self = fmt::format("/proc/self/fd/{}", place.get());
  return S_ISBLK(info.st_mode) ? OpenDevice(self, path, read_only)
                               : OpenImage(self, path, info, read_only);
}

}  // namespace

Result<UniqueFd> OpenBlockSource(const std::string& path, bool read_only) {
  // Looked at before it is opened: a FIFO would wait, a device of another kind might do something.
  WV_TRY(const UniqueFd place, Open(path, O_PATH));
  WV_TRY(const struct stat info, Fstat(place));
  if (!S_ISBLK(info.st_mode) && !S_ISREG(info.st_mode)) {
    return Fail(Code::kInvalidArgument, path + " is neither a block device nor an image file");
  }
  const auto deadline = steady_clock::now() + kBusyLimit;
  while (true) {
    auto fd = OpenOnce(place, path, info, read_only);
    if (fd.has_value()) {
      WV_TRY_CONTEXT(const uint64_t bytes, SizeOf(*fd, info), path);
      if (bytes == 0 || bytes % kSector != 0) {
        return Fail(Code::kInvalidArgument,
                    fmt::format("{}: {} bytes are no whole sectors of {}", path, bytes, kSector));
      }
      return fd;
    }
    if (fd.error().code() != Code::kFailedPrecondition || steady_clock::now() > deadline) {
      return fd;
    }
    std::this_thread::sleep_for(kBusyPause);
  }
}

Result<UniqueFd> OpenBlockDevice(dev_t number, bool read_only) {
  const std::string numbers = fmt::format("{}:{}", major(number), minor(number));
  WV_TRY_CONTEXT(const std::string said,
                 ReadFile(fmt::format("/sys/dev/block/{}/uevent", numbers), 4096),
                 "block device " + numbers);
  // "MAJOR=8\nMINOR=0\nDEVNAME=sda\n…"
  constexpr std::string_view kKey = "\nDEVNAME=";
  const size_t key = said.find(kKey);
  if (key == std::string::npos) {
    return Fail(Code::kNotFound, "block device " + numbers + " has no name");
  }
  const size_t name = key + kKey.size();
  const std::string path = "/dev/" + said.substr(name, said.find('\n', name) - name);
  WV_TRY(UniqueFd fd, OpenBlockSource(path, read_only));
  WV_TRY(const struct stat info, Fstat(fd));
  if (!S_ISBLK(info.st_mode) || info.st_rdev != number) {
    return Fail(Code::kNotFound, fmt::format("{} is not block device {}", path, numbers));
  }
  return fd;
}

const MountEntry* DiskMountOf(const std::vector<MountEntry>& mounts,
                              const std::vector<std::string>& filesystems) {
  if (mounts.size() != 1 || std::ranges::find(filesystems, mounts[0].type) == filesystems.end() ||
      !(mounts[0].target.empty() || mounts[0].target == "/")) {
    return nullptr;
  }
  // More devices of the host, which the guest has not: layers of erofs, logs of ext4 and xfs.
  static constexpr std::array<std::string_view, 5> kOthers = {
      "device=", "journal_dev=", "journal_path=", "logdev=", "rtdev="};
  for (const std::string& option : mounts[0].options) {
    if (std::ranges::any_of(kOthers, [&](auto name) { return option.starts_with(name); })) {
      return nullptr;
    }
  }
  const ParsedOptions options = ParseMountOptions(mounts[0].options, /*overlay=*/false);
  // "bind" makes a bind of whatever type is named.
  return (options.flags & (MS_BIND | MS_REMOUNT)) == 0 ? mounts.data() : nullptr;
}

}  // namespace wyvern::runtime
