#include "base/fd.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>

#include "base/cleanup.h"

namespace wyvern {

void UniqueFd::Reset(int fd) {
  if (fd_ >= 0) {
    close(fd_);
  }
  fd_ = fd;
}

Result<UniqueFd> UniqueFd::Duplicate() const {
  const int fd = fcntl(fd_, F_DUPFD_CLOEXEC, 3);
  if (fd < 0) {
    return SysError("fcntl(F_DUPFD_CLOEXEC)");
  }
  return UniqueFd(fd);
}

Result<UniqueFd> OpenAt(FdRef dir, const std::string& path, int flags, mode_t mode) {
  int fd = -1;
  do {
    fd = openat(dir.get(), path.c_str(), flags | O_CLOEXEC, mode);
  } while (fd < 0 && errno == EINTR);
  if (fd < 0) {
    return SysError("open " + path);
  }
  return UniqueFd(fd);
}

Result<UniqueFd> Open(const std::string& path, int flags, mode_t mode) {
  return OpenAt(FdRef(AT_FDCWD), path, flags, mode);
}

Result<> WriteAll(FdRef fd, std::span<const std::byte> data) {
  while (!data.empty()) {
    const ssize_t written = write(fd.get(), data.data(), data.size());
    if (written < 0) {
      if (errno == EINTR) {
        continue;
      }
      return SysError("write");
    }
    data = data.subspan(static_cast<size_t>(written));
  }
  return {};
}

Result<> WriteAll(FdRef fd, std::string_view data) {
  return WriteAll(fd, std::as_bytes(std::span(data.data(), data.size())));
}

Result<size_t> ReadSome(FdRef fd, std::span<std::byte> data) {
  for (;;) {
    const ssize_t got = read(fd.get(), data.data(), data.size());
    if (got >= 0) {
      return static_cast<size_t>(got);
    }
    if (errno != EINTR) {
      return SysError("read");
    }
  }
}

Result<> ReadExact(FdRef fd, std::span<std::byte> data) {
  while (!data.empty()) {
    WV_TRY(const size_t got, ReadSome(fd, data));
    if (got == 0) {
      return Fail(Code::kOutOfRange, "unexpected end of the stream");
    }
    data = data.subspan(got);
  }
  return {};
}

Result<std::string> ReadToEnd(FdRef fd, size_t limit) {
  std::string out;
  std::array<std::byte, 16384> buffer;
  for (;;) {
    WV_TRY(const size_t got, ReadSome(fd, buffer));
    if (got == 0) {
      return out;
    }
    if (got > limit - out.size()) {
      return Fail(Code::kResourceExhausted,
                  "more than " + std::to_string(limit) + " bytes to read");
    }
    out.append(reinterpret_cast<const char*>(buffer.data()), got);
  }
}

Result<std::string> ReadFile(const std::string& path, size_t limit) {
  WV_TRY(const UniqueFd fd, Open(path, O_RDONLY));
  WV_TRY_CONTEXT(std::string text, ReadToEnd(fd, limit), "read " + path);
  return text;
}

Result<> WriteFile(const std::string& path, std::string_view data) {
  WV_TRY(const UniqueFd fd, Open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644));
  WV_TRY_VOID_CONTEXT(WriteAll(fd, data), "write " + path);
  return {};
}

Result<> WriteFileAtomically(const std::string& path, std::string_view data, mode_t mode) {
  const std::string temporary = path + ".new";
  WV_TRY(const UniqueFd fd, Open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, mode));
  Cleanup remove([&temporary] { unlink(temporary.c_str()); });
  WV_TRY_VOID_CONTEXT(WriteAll(fd, data), "write " + temporary);
  if (fsync(fd.get()) != 0) {
    return SysError("fsync " + temporary);
  }
  if (rename(temporary.c_str(), path.c_str()) != 0) {
    return SysError("rename " + temporary + " to " + path);
  }
  remove.Cancel();
  return {};
}

Result<> SetNonBlocking(FdRef fd, bool on) {
  const int flags = fcntl(fd.get(), F_GETFL);
  if (flags < 0) {
    return SysError("fcntl(F_GETFL)");
  }
  if (fcntl(fd.get(), F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK) != 0) {
    return SysError("fcntl(F_SETFL)");
  }
  return {};
}

Result<struct stat> Fstat(FdRef fd) {
  struct stat info {};

  if (fstat(fd.get(), &info) != 0) {
    return SysError("fstat");
  }
  return info;
}

Result<PipePair> MakePipe(int flags) {
  std::array<int, 2> fds{};
  if (pipe2(fds.data(), O_CLOEXEC | flags) != 0) {
    return SysError("pipe2");
  }
  return PipePair{UniqueFd(fds[0]), UniqueFd(fds[1])};
}

Result<UniqueFd> MakeMemfd(const char* name, uint64_t size, unsigned flags) {
  UniqueFd fd(memfd_create(name, MFD_CLOEXEC | flags));
  if (!fd.valid()) {
    return SysError("memfd_create");
  }
  if (ftruncate(fd.get(), static_cast<off_t>(size)) != 0) {
    return SysError("ftruncate memfd");
  }
  return fd;
}

}  // namespace wyvern
