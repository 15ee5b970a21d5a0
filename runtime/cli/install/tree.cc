#include "install/tree.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <set>
#include <utility>

#include "base/cleanup.h"
#include "cli/digest.h"

namespace wyvern::cli {

namespace {

struct Wanted {
  const char* path;
  bool program;
  bool required;
};

constexpr std::array<Wanted, 9> kWanted = {{
    {"bin/wyvern", true, true},
    {"bin/containerd-shim-wyvern-v2", true, true},
    {"libexec/wyvern-vmm", true, true},
    {"libexec/wyvern-fs", true, true},
    {"libexec/wyvern-anchor", true, true},
    {"share/guest/vmlinux", false, true},
    {"share/guest/image.erofs", false, true},
    {"share/systemd/wyvern-metrics.service", false, false},
    {"share/systemd/wyvern.conf", false, false},
}};

constexpr size_t kDigestPrefix = std::string_view("sha256:").size();
constexpr size_t kVersionDigits = 12;

Error Explained(Error error) {
  if (error.sys_errno() == EROFS) {
    return std::move(error).WithContext(
        "cannot install on a read-only file system (remount it writable, or make these directories "
        "writable ones)");
  }
  return error;
}

Result<std::string> DigestAt(FdRef directory, const std::string& path) {
  WV_TRY(const UniqueFd file, OpenAt(directory, path, O_RDONLY));
  WV_TRY(const std::string digest, Sha256OfFile(file));
  return digest.substr(kDigestPrefix);
}

Result<> CopyFile(FdRef from, FdRef directory, const std::string& path, mode_t mode) {
  WV_TRY(const UniqueFd in, OpenAt(from, path, O_RDONLY));
  WV_TRY(const UniqueFd out, OpenAt(directory, path, O_WRONLY | O_CREAT | O_EXCL, mode));
  for (;;) {
    const ssize_t count = sendfile(out.get(), in.get(), nullptr, 1U << 30U);
    if (count == 0) {
      break;
    }
    if (count < 0 && errno != EINTR) {
      return SysError("copy " + path);
    }
  }
  if (fchmod(out.get(), mode) != 0 || fsync(out.get()) != 0) {
    return SysError("write " + path);
  }
  return {};
}

Result<> WriteDocument(FdRef directory, const std::string& path, std::string_view text) {
  WV_TRY(const UniqueFd out, OpenAt(directory, path, O_WRONLY | O_CREAT | O_EXCL, 0644));
  WV_TRY_VOID(WriteAll(out, text));
  if (fchmod(out.get(), 0644) != 0 || fsync(out.get()) != 0) {
    return SysError("write " + path);
  }
  return {};
}

Result<> MakeParents(const std::string& directory, const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(directory + "/" + path).parent_path(),
                                      error);
  return error ? SysErrorFrom(error.value(), "mkdir for " + directory + "/" + path) : Result<>();
}

}  // namespace

Result<> MakeDirectories(const std::string& root, const std::string& path,
                         std::vector<std::string>& made) {
  for (size_t slash = path.find('/', 1);; slash = path.find('/', slash + 1)) {
    const std::string part = path.substr(0, slash);
    if (mkdir((root + part).c_str(), 0755) == 0) {
      made.push_back(part);
    } else if (errno != EEXIST) {
      return tl::unexpected(Explained(SysError("mkdir " + root + part).value()));
    }
    if (slash == std::string::npos) {
      return {};
    }
  }
}

Result<> PointLink(const std::string& path, const std::string& target) {
  struct stat there = {};
  if (lstat(path.c_str(), &there) == 0 && !S_ISLNK(there.st_mode)) {
    return Fail(Code::kAlreadyExists, path + " is there and is no link of ours");
  }
  const std::string temporary = path + ".wyvern-new";
  unlink(temporary.c_str());
  if (symlink(target.c_str(), temporary.c_str()) != 0) {
    return tl::unexpected(Explained(SysError("symlink " + temporary).value()));
  }
  if (rename(temporary.c_str(), path.c_str()) != 0) {
    return SysError("rename " + temporary + " to " + path);
  }
  return {};
}

std::string LinkTarget(const std::string& path) {
  std::error_code error;
  return std::filesystem::read_symlink(path, error).string();
}

std::string DigestOf(const std::string& path) {
  const auto file = Open(path, O_RDONLY);
  if (!file) {
    return "";
  }
  const auto digest = Sha256OfFile(*file);
  return digest ? digest->substr(kDigestPrefix) : "";
}

Result<Payload> OpenPayload(const std::string& directory, std::string_view program_version,
                            std::map<std::string, std::string> documents) {
  Payload payload;
  WV_TRY(payload.directory, Open(directory, O_RDONLY | O_DIRECTORY));
  std::string all;
  for (const Wanted& wanted : kWanted) {
    auto digest = DigestAt(payload.directory, wanted.path);
    if (!digest && digest.error().code() == Code::kNotFound) {
      if (!wanted.required) {
        continue;
      }
      return Fail(Code::kNotFound,
                  fmt::format("{} has no {}: --from names a directory that deploy/install.sh has "
                              "filled, or an installed version",
                              directory, wanted.path));
    }
    WV_TRY(std::string sha256, std::move(digest));
    all += fmt::format("{} {}\n", wanted.path, sha256);
    payload.files.push_back({wanted.path, std::move(sha256), wanted.program});
  }
  for (const auto& [path, text] : documents) {
    all += fmt::format("{} {}\n", path, Sha256(text));
  }
  payload.documents = std::move(documents);
  payload.version =
      fmt::format("{}-{}", program_version, Sha256(all).substr(kDigestPrefix, kVersionDigits));
  return payload;
}

bool HasPayload(const std::string& directory, const Payload& payload) {
  return std::ranges::all_of(payload.files,
                             [&](const PayloadFile& file) {
                               return DigestOf(directory + "/" + file.path) == file.sha256;
                             }) &&
         std::ranges::all_of(payload.documents, [&](const auto& document) {
           return ReadFile(directory + "/" + document.first).value_or("") == document.second;
         });
}

Result<> PlacePayload(const std::string& directory, const Payload& payload) {
  const std::string temporary = directory + ".new";
  WV_TRY_VOID(RemoveVersion(temporary));
  Cleanup remove([&temporary] { (void)RemoveVersion(temporary); });
  if (mkdir(temporary.c_str(), 0755) != 0) {
    return tl::unexpected(Explained(SysError("mkdir " + temporary).value()));
  }
  WV_TRY(const UniqueFd made, Open(temporary, O_RDONLY | O_DIRECTORY));
  for (const PayloadFile& file : payload.files) {
    WV_TRY_VOID(MakeParents(temporary, file.path));
    WV_TRY_VOID_CONTEXT(CopyFile(payload.directory, made, file.path, file.program ? 0755 : 0644),
                        "to " + temporary);
  }
  for (const auto& [path, text] : payload.documents) {
    WV_TRY_VOID(MakeParents(temporary, path));
    WV_TRY_VOID_CONTEXT(WriteDocument(made, path, text), "to " + temporary);
  }
  // A harmed version is exchanged, so that it is never missing; where none is, it is renamed.
  if (renameat2(AT_FDCWD, temporary.c_str(), AT_FDCWD, directory.c_str(), RENAME_EXCHANGE) != 0) {
    if (errno != ENOENT || rename(temporary.c_str(), directory.c_str()) != 0) {
      return SysError("rename " + temporary + " to " + directory);
    }
    remove.Cancel();
  }
  return {};
}

Result<> RemoveVersion(const std::string& directory) {
  std::error_code error;
  std::filesystem::remove_all(directory, error);
  return error ? SysErrorFrom(error.value(), "remove " + directory) : Result<>();
}

std::vector<std::string> UsersOf(const std::string& root, const std::string& directory) {
  std::set<std::pair<dev_t, ino_t>> programs;
  struct stat file = {};
  for (const Wanted& wanted : kWanted) {
    if (wanted.program && stat((directory + "/" + wanted.path).c_str(), &file) == 0) {
      programs.emplace(file.st_dev, file.st_ino);
    }
  }
  const std::string self = LinkTarget(root + "/proc/self");
  std::vector<std::string> users;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(root + "/proc", error)) {
    const std::string pid = entry.path().filename();
    if (pid == self || pid.find_first_not_of("0123456789") != std::string::npos ||
        stat((entry.path() / "exe").c_str(), &file) != 0 ||
        !programs.contains({file.st_dev, file.st_ino})) {
      continue;
    }
    std::string name = ReadFile(entry.path() / "comm").value_or("?");
    name.resize(std::min(name.find('\n'), name.size()));
    users.push_back(fmt::format("{} (pid {})", name, pid));
  }
  return users;
}

}  // namespace wyvern::cli
