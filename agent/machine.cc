#include "agent/machine.h"

#include <fcntl.h>
#include <linux/random.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <vector>

#include "base/fd.h"

namespace wyvern::agent {
namespace {

constexpr int64_t kSecond = 1'000'000'000;
constexpr int64_t kClockTolerance = 50'000'000;
constexpr size_t kMaxEntropy = 256;

int64_t Nanoseconds(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return now.tv_sec * kSecond + now.tv_nsec;
}

}  // namespace

Result<> SetClock(int64_t realtime_ns) {
  if (realtime_ns <= 0 ||
      std::llabs(realtime_ns - Nanoseconds(CLOCK_REALTIME)) <= kClockTolerance) {
    return {};
  }
  const timespec time{.tv_sec = realtime_ns / kSecond, .tv_nsec = realtime_ns % kSecond};
  if (clock_settime(CLOCK_REALTIME, &time) != 0) {
    return SysError("clock_settime");
  }
  return {};
}

Result<> AddEntropy(const std::string& bytes) {
  if (bytes.empty()) {
    return {};
  }
  if (bytes.size() > kMaxEntropy) {
    return Fail(Code::kInvalidArgument, "at most 256 bytes of entropy are taken");
  }
  // struct rand_pool_info: bits, bytes, data.
  std::vector<uint32_t> pool(2 + (bytes.size() + 3) / 4);
  pool[0] = static_cast<uint32_t>(bytes.size() * 8);
  pool[1] = static_cast<uint32_t>(bytes.size());
  std::memcpy(&pool[2], bytes.data(), bytes.size());
  WV_TRY(const UniqueFd random, Open("/dev/urandom", O_WRONLY));
  if (ioctl(random.get(), RNDADDENTROPY, pool.data()) != 0) {
    return SysError("RNDADDENTROPY");
  }
  return {};
}

Result<> SetHostname(const std::string& name) {
  if (sethostname(name.data(), name.size()) != 0) {
    return SysError("sethostname");
  }
  return {};
}

Result<> MountShare(const std::string& tag, const std::string& target) {
  if (mkdir(target.c_str(), 0755) != 0 && errno != EEXIST) {
    return SysError("mkdir " + target);
  }
  if (mount(tag.c_str(), target.c_str(), "virtiofs", MS_NOATIME, nullptr) != 0) {
    return SysError("mount the share " + tag);
  }
  return {};
}

Result<> SetSysctl(const std::string& assignment) {
  const size_t equals = assignment.find('=');
  if (equals == std::string::npos || equals == 0) {
    return Fail(Code::kInvalidArgument, "a sysctl is name=value");
  }
  std::string name = assignment.substr(0, equals);
  const bool valid = std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == '-' || c == '/';
  });
  if (!valid || name.find("..") != std::string::npos) {
    return Fail(Code::kInvalidArgument, "bad sysctl name: " + name);
  }
  // As sysctl(8): a name with slashes is a path already ("net/ipv4/conf/eth0.1/forwarding").
  if (name.find('/') == std::string::npos) {
    std::replace(name.begin(), name.end(), '.', '/');
  }
  return WriteFile("/proc/sys/" + name, assignment.substr(equals + 1));
}

void MountExports(const std::string& share) {
  std::error_code error;
  for (std::filesystem::directory_iterator it(share, error), end; !error && it != end;
       it.increment(error)) {
    // To open a directory is what makes the kernel mount.
    const UniqueFd opened(
        open(it->path().c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  }
}

bool DetachMount(const std::string& path) {
  return umount2(path.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) == 0;
}

std::string KernelRelease() {
  utsname name{};
  return uname(&name) == 0 ? name.release : "";
}

uint32_t CpusOnline() {
  return static_cast<uint32_t>(std::max(1L, sysconf(_SC_NPROCESSORS_ONLN)));
}

uint64_t MemoryBytes() {
  struct sysinfo info {};

  return sysinfo(&info) == 0 ? uint64_t{info.totalram} * info.mem_unit : 0;
}

uint64_t BoottimeNs() {
  return static_cast<uint64_t>(Nanoseconds(CLOCK_BOOTTIME));
}

}  // namespace wyvern::agent
