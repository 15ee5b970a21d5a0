#include "install/places.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <filesystem>

#include "cli/digest.h"
#include "install/tree.h"

namespace wyvern::cli {

std::string HexDigest(std::string_view text) {
  return Sha256(text).substr(std::string_view("sha256:").size());
}

Result<UniqueFd> LockInstallation(const std::string& root, std::vector<std::string>& made) {
  WV_TRY_VOID(MakeDirectories(root, kState, made));
  WV_TRY(UniqueFd file, Open(root + kLock, O_RDWR | O_CREAT, 0600));
  if (flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
    return errno == EWOULDBLOCK
               ? Fail(Code::kAborted, "another `wyvern install` or `uninstall` runs: wait for it")
               : SysError("flock");
  }
  return file;
}

Result<> ReplaceFile(const std::string& path, const std::string& text) {
  struct stat there = {};
  if (stat(path.c_str(), &there) != 0) {
    return WriteFileAtomically(path, text, 0644);
  }
  std::error_code error;
  const std::string real = std::filesystem::canonical(path, error).string();
  return WriteFileAtomically(error ? path : real, text, there.st_mode & 07777U);
}

}  // namespace wyvern::cli
