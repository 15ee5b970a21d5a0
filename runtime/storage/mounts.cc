#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/mount.h>

#include <algorithm>
#include <cerrno>
#include <sstream>
#include <thread>

#include "base/fd.h"
#include "storage/rootfs.h"

namespace wyvern::runtime {
namespace {

constexpr size_t kMountInfoLimit = 64U << 20U;

// mountinfo writes space, tab, newline and backslash as \ooo.
std::string Unescape(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 3 < text.size()) {
      out += static_cast<char>(((text[i + 1] - '0') << 6) | ((text[i + 2] - '0') << 3) |
                               (text[i + 3] - '0'));
      i += 3;
    } else {
      out += text[i];
    }
  }
  return out;
}

}  // namespace

Result<std::vector<std::string>> MountsBelow(const std::string& path) {
  WV_TRY(const std::string text, ReadFile("/proc/thread-self/mountinfo", kMountInfoLimit));
  std::vector<std::string> out;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string word;
    for (int i = 0; i < 5; ++i) {
      words >> word;  // field 5: mount point
    }
    std::string point = Unescape(word);
    if (point == path || (point.starts_with(path) && point[path.size()] == '/')) {
      out.push_back(std::move(point));
    }
  }
  return out;
}

Result<> UnmountTree(const std::string& path) {
  if (path.empty() || path == "/") {
    return Fail(Code::kInvalidArgument, "refusing to unmount the root");
  }
  // Mounts may be stacked: each round removes what is there now.
  for (int round = 0; round < 16; ++round) {
    WV_TRY(const std::vector<std::string> points, MountsBelow(path));
    if (points.empty()) {
      return {};
    }
    for (auto it = points.rbegin(); it != points.rend(); ++it) {
      if (umount2(it->c_str(), UMOUNT_NOFOLLOW) != 0 && errno == EBUSY &&
          umount2(it->c_str(), UMOUNT_NOFOLLOW | MNT_DETACH) != 0 && errno != EINVAL &&
          errno != ENOENT) {
        return SysError("unmount " + *it);
      }
    }
  }
  return Fail(Code::kInternal, "mounts keep appearing below " + path);
}

Result<> OnPrivateThread(const std::function<Result<>()>& body) {
  Result<> result;
  std::thread thread([&] {
    if (unshare(CLONE_FS) != 0) {
      result = SysError("unshare(CLONE_FS)");
      return;
    }
    result = body();
  });
  thread.join();
  return result;
}

}  // namespace wyvern::runtime
