#include "volume/host_files.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <memory>
#include <utility>

#include "base/fd.h"
#include "base/utf8.h"

namespace wyvern::runtime {
namespace {

// Kubelet removes the old directory after the rename, so who reads may find it half gone.
constexpr int kTries = 5;

tl::unexpected<Error> NotKubelets(const std::string& what) {
  return Fail(Code::kFailedPrecondition, what);
}

FileOwner OwnerOf(const struct stat& info) {
  return {info.st_mode & 07777U, info.st_uid, info.st_gid};
}

// One entry of a directory, by a descriptor that reads nothing yet: its type can then be trusted.
Result<UniqueFd> OpenEntry(FdRef directory, const std::string& name) {
  open_how how = {};
  how.flags = O_PATH | O_NOFOLLOW | O_CLOEXEC;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV;
  UniqueFd fd(
      static_cast<int>(syscall(SYS_openat2, directory.get(), name.c_str(), &how, sizeof(how))));
  if (!fd.valid()) {
    return SysError("open '" + name + "'");
  }
  return fd;
}

Result<UniqueFd> OpenToRead(FdRef entry, int flags) {
  return Open(fmt::format("/proc/self/fd/{}", entry.get()), O_RDONLY | O_NONBLOCK | flags);
}

struct CloseDirectory {
  void operator()(DIR* stream) const { closedir(stream); }
};

Result<std::vector<std::string>> ListNames(UniqueFd directory, size_t limit) {
  const std::unique_ptr<DIR, CloseDirectory> stream(fdopendir(directory.get()));
  if (stream == nullptr) {
    return SysError("fdopendir");
  }
  static_cast<void>(directory.Release());  // the stream's
  std::vector<std::string> names;
  while (true) {
    errno = 0;
    // NOLINTNEXTLINE(concurrency-mt-unsafe): the stream is this call's own.
    const dirent* const entry = readdir(stream.get());
    if (entry == nullptr) {
      break;
    }
    std::string name = static_cast<const char*>(entry->d_name);
    if (name == "." || name == "..") {
      continue;
    }
    if (names.size() >= limit) {
      return Fail(Code::kResourceExhausted,
                  fmt::format("it has more than {} files", kMaxHostFiles));
    }
    names.push_back(std::move(name));
  }
  if (errno != 0) {
    return SysError("readdir");
  }
  std::ranges::sort(names);
  return names;
}

class Reader {
 public:
  explicit Reader(HostFiles& out) : out_(out) {}

  // `prefix`: of the paths below, empty or "a/b/".
  Result<> ReadDirectory(FdRef entry, const std::string& prefix, size_t depth) {
    if (depth > kMaxHostFileDepth) {
      return Fail(Code::kResourceExhausted,
                  fmt::format("its directories are more than {} deep", kMaxHostFileDepth));
    }
    WV_TRY(UniqueFd directory, OpenToRead(entry, O_DIRECTORY));
    WV_TRY(const UniqueFd beneath, directory.Duplicate());
    WV_TRY(const std::vector<std::string> names,
           ListNames(std::move(directory), kMaxHostFiles - out_.files.size()));
    for (const std::string& name : names) {
      WV_TRY_VOID(ReadEntry(beneath, name, prefix, depth));
    }
    return {};
  }

 private:
  Result<> ReadEntry(FdRef directory, const std::string& name, const std::string& prefix,
                     size_t depth) {
    if (ToUtf8(name) != name || (prefix.empty() && name.starts_with(".."))) {
      return NotKubelets("it has a file with a name that no key has");
    }
    if (out_.files.size() >= kMaxHostFiles) {
      return Fail(Code::kResourceExhausted,
                  fmt::format("it has more than {} files", kMaxHostFiles));
    }
    WV_TRY(const UniqueFd entry, OpenEntry(directory, name));
    WV_TRY(const struct stat info, Fstat(entry));
    HostFile file;
    file.path = prefix + name;
    file.owner = OwnerOf(info);
    if (file.path.size() >= PATH_MAX) {
      return Fail(Code::kResourceExhausted, "it has a path that is too long");
    }
    if (S_ISDIR(info.st_mode)) {
      file.directory = true;
      const std::string below = file.path + "/";
      out_.files.push_back(std::move(file));
      return ReadDirectory(entry, below, depth + 1);
    }
    if (!S_ISREG(info.st_mode)) {
      return NotKubelets("'" + file.path + "' is neither a file nor a directory");
    }
    WV_TRY(const UniqueFd opened, OpenToRead(entry, 0));
    auto content = ReadToEnd(opened, kMaxHostFileBytes - out_.bytes);
    if (!content.has_value()) {
      return content.error().code() == Code::kResourceExhausted
                 ? Fail(Code::kResourceExhausted,
                        fmt::format("its files have more than {} bytes", kMaxHostFileBytes))
                 : Result<>(tl::unexpected(std::move(content).error()));
    }
    file.content = std::move(*content);
    out_.bytes += file.content.size();
    out_.files.push_back(std::move(file));
    return {};
  }

  HostFiles& out_;
};

Result<UniqueFd> OpenVolume(const std::string& source) {
  return Open(source, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
}

Result<std::string> VersionOf(FdRef volume) {
  std::array<char, NAME_MAX + 1> target{};
  const ssize_t length = readlinkat(volume.get(), "..data", target.data(), target.size());
  if (length < 0) {
    return errno == ENOENT || errno == EINVAL ? NotKubelets("it has no symlink ..data")
                                              : Result<std::string>(SysError("readlink ..data"));
  }
  std::string version(target.data(), static_cast<size_t>(length));
  if (version.size() > NAME_MAX || version.size() < 3 || !version.starts_with("..") ||
      version == "..data" || version.find('/') != std::string::npos || ToUtf8(version) != version) {
    return NotKubelets("its symlink ..data names no directory of its own");
  }
  return version;
}

Result<HostFiles> ReadOnce(FdRef volume) {
  HostFiles out;
  WV_TRY(out.version, VersionOf(volume));
  WV_TRY(const struct stat info, Fstat(volume));
  out.owner = OwnerOf(info);
  WV_TRY(const UniqueFd entry, OpenEntry(volume, out.version));
  WV_TRY_VOID(Reader(out).ReadDirectory(entry, "", 1));
  WV_TRY(const std::string now, VersionOf(volume));
  if (now != out.version) {
    return Fail(Code::kAborted, "it changed while it was read");
  }
  return out;
}

}  // namespace

Result<HostFiles> ReadHostFiles(const std::string& source) {
  WV_TRY(const UniqueFd volume, OpenVolume(source));
  for (int i = 1; true; ++i) {
    auto out = ReadOnce(volume);
    if (out.has_value()) {
      return out;
    }
    const bool changed = out.error().code() == Code::kAborted || out.error().sys_errno() == ENOENT;
    if (!changed) {
      const int number = out.error().sys_errno();
      // Links and mount points where kubelet has none.
      const bool refused = number == ELOOP || number == EXDEV || number == ENOTDIR;
      return refused ? NotKubelets(out.error().message()) : std::move(out);
    }
    if (i == kTries) {
      return Fail(Code::kAborted, "it changes all the time: " + out.error().message());
    }
  }
}

Result<std::string> ReadVersion(const std::string& source) {
  WV_TRY(const UniqueFd volume, OpenVolume(source));
  return VersionOf(volume);
}

}  // namespace wyvern::runtime
