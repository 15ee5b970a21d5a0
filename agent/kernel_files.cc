#include "agent/kernel_files.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>
// After sys/socket.h, which it needs.
#include <linux/vm_sockets.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <memory>

#include "base/fd.h"

namespace wyvern::agent {

std::string BaseName(const std::string& path) {
  return path.substr(path.rfind('/') + 1);
}

bool KernelFiles::Exists(const std::string& path) const {
  return access(At(path).c_str(), F_OK) == 0;
}

std::optional<std::string> KernelFiles::Read(const std::string& path) const {
  auto text = ReadFile(At(path));
  if (!text) {
    return std::nullopt;
  }
  if (text->ends_with('\n')) {
    text->pop_back();
  }
  return *std::move(text);
}

std::vector<std::string> KernelFiles::List(const std::string& path) const {
  std::vector<std::string> names;
  const std::unique_ptr<DIR, int (*)(DIR*)> directory(opendir(At(path).c_str()), closedir);
  if (!directory) {
    return names;
  }
  // NOLINTNEXTLINE(concurrency-mt-unsafe): a directory stream of our own
  while (const dirent* entry = readdir(directory.get())) {
    if (entry->d_name[0] != '.') {
      names.emplace_back(entry->d_name);
    }
  }
  std::ranges::sort(names);
  return names;
}

std::string KernelFiles::LinkName(const std::string& path) const {
  std::array<char, PATH_MAX> target;
  const ssize_t length = readlink(At(path).c_str(), target.data(), target.size());
  if (length <= 0) {
    return "";
  }
  return BaseName(std::string(target.data(), static_cast<size_t>(length)));
}

Result<> KernelFiles::Write(const std::string& path, const std::string& value) const {
  WV_TRY(const UniqueFd fd, Open(At(path), O_WRONLY | O_TRUNC));
  if (write(fd.get(), value.data(), value.size()) < 0) {
    return SysError("write " + value + " to " + path);
  }
  return {};
}

std::optional<uint64_t> KernelFiles::VsockCid() const {
  const auto vsock = Open(At("/dev/vsock"), O_RDONLY);
  unsigned cid = VMADDR_CID_ANY;
  if (!vsock || ioctl(vsock->get(), IOCTL_VM_SOCKETS_GET_LOCAL_CID, &cid) != 0 ||
      cid == VMADDR_CID_ANY) {
    return std::nullopt;
  }
  return cid;
}

bool KernelFiles::IsClaimed(const std::string& block_device) const {
  // Without O_CREAT, O_EXCL is an exclusive claim on a block device (open(2)), which a mount has, too.
  const auto opened = Open(At(block_device), O_RDONLY | O_EXCL | O_NONBLOCK);
  return !opened && opened.error().sys_errno() == EBUSY;
}

}  // namespace wyvern::agent
