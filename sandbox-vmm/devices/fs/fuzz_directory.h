// fs/fuzz_directory.h — what the fuzz targets share: a small directory that cannot grow, and a server
// over it.
#pragma once

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "base/testing/fuzz_directory.h"
#include "fs/file_server.h"

namespace wyvern::fs {

// What an input finds in the shared directory: a, d/b, and l, which leads out of it. What else is
// there goes.
inline bool RestoreFuzzTree(const std::string& directory) {
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(directory, ignored)) {
    std::filesystem::remove_all(entry.path(), ignored);
  }
  bool made = ::chown(directory.c_str(), ::geteuid(), ::getegid()) == 0 &&
              ::chmod(directory.c_str(), 0755) == 0;
  for (const char* acl : {"system.posix_acl_access", "system.posix_acl_default"}) {
    ::removexattr(directory.c_str(), acl);
  }
  ::mkdir((directory + "/d").c_str(), 0755);
  for (const char* name : {"/a", "/d/b"}) {
    const UniqueFd fd(::open((directory + name).c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0644));
    made = made && ::write(fd.get(), "0123456789", 10) == 10;
  }
  return ::symlink("../../etc/passwd", (directory + "/l").c_str()) == 0 && made;
}

struct FuzzPaths {
  std::string share;  // small files, and few
  std::string other;
  std::string exports;  // the share again as one, the other as two; none is no mount
};

// On a small tmpfs where we may mount one; elsewhere there are no exports.
inline const FuzzPaths& FuzzTrees() {
  static const FuzzPaths paths = [] {
    SetLogLevel(LogLevel::kError);
    ::umask(0);
    const std::string made = MakeFuzzDirectory("fuse");
    const bool may_mount = ::unshare(CLONE_NEWNS) == 0 &&
                           ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
                           ::mount("tmpfs", made.c_str(), "tmpfs", 0, "size=4m,nr_inodes=4k") == 0;
    const rlimit small{1 << 20, 1 << 20};
    ::setrlimit(RLIMIT_FSIZE, &small);
    ::signal(SIGXFSZ, SIG_IGN);
    const FuzzPaths found{made + "/share", made + "/other", made + "/exports"};
    for (const char* name :
         {"/share", "/other", "/exports", "/exports/one", "/exports/two", "/exports/none"}) {
      WV_CHECK(::mkdir((made + name).c_str(), 0755) == 0);
    }
    WV_CHECK(RestoreFuzzTree(found.share) && RestoreFuzzTree(found.other));
    if (may_mount) {
      for (const auto& [from, to] : {std::pair{found.share, "/one"}, {found.other, "/two"}}) {
        WV_CHECK(::mount(from.c_str(), (found.exports + to).c_str(), nullptr, MS_BIND, nullptr) ==
                 0);
      }
    }
    return found;
  }();
  return paths;
}

inline const std::string& FuzzDirectory() {
  return FuzzTrees().share;
}

// All that can be offered, over the shared directory.
inline FileServerOptions FuzzOptions(DaxWindow* window) {
  FileServerOptions options;
  options.root = *Open(FuzzDirectory(), O_RDONLY | O_DIRECTORY);
  options.inodes = {.inodes = 256, .resident = 8, .nameless = 16};
  options.max_handles = 64;
  options.features = {
      .posix_locks = true, .flock_locks = true, .posix_acl = true, .max_lock_waits = 4};
  options.policy.dax_min_bytes = 0;
  options.dax_window = window;
  return options;
}

inline std::unique_ptr<FileServer> FuzzServer(DaxWindow* window) {
  return *FileServer::Create(FuzzOptions(window));
}

}  // namespace wyvern::fs
