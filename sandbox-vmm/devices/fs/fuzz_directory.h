// fs/fuzz_directory.h — what the fuzz targets share: a small directory that cannot grow, and a server
// over it.
#pragma once

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <memory>
#include <string>

#include "base/check.h"
#include "base/log.h"
#include "base/testing/fuzz_directory.h"
#include "fs/file_server.h"

namespace wyvern::fs {

// A small tmpfs where we may mount one, in any case small files. The same one each time: a, d/b, and
// l, which leads out of it.
inline const std::string& FuzzDirectory() {
  static const std::string directory = [] {
    SetLogLevel(LogLevel::kError);
    ::umask(0);
    std::string made = MakeFuzzDirectory("fuse");
    if (::unshare(CLONE_NEWNS) == 0 &&
        ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0) {
      ::mount("tmpfs", made.c_str(), "tmpfs", 0, "size=4m,nr_inodes=4k");
    }
    const rlimit small{1 << 20, 1 << 20};
    ::setrlimit(RLIMIT_FSIZE, &small);
    ::signal(SIGXFSZ, SIG_IGN);
    ::mkdir((made + "/d").c_str(), 0755);
    for (const char* name : {"/a", "/d/b"}) {
      const UniqueFd fd(::open((made + name).c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0644));
      WV_CHECK(::write(fd.get(), "0123456789", 10) == 10);
    }
    WV_CHECK(::symlink("../../etc/passwd", (made + "/l").c_str()) == 0);
    return made;
  }();
  return directory;
}

inline std::unique_ptr<FileServer> FuzzServer(DaxWindow* window) {
  FileServerOptions options;
  options.root = *Open(FuzzDirectory(), O_RDONLY | O_DIRECTORY);
  options.inodes = {.inodes = 256, .resident = 8, .nameless = 16};
  options.max_handles = 64;
  options.features = {
      .posix_locks = true, .flock_locks = true, .posix_acl = true, .max_lock_waits = 4};
  options.policy.dax_min_bytes = 0;
  options.dax_window = window;
  return *FileServer::Create(std::move(options));
}

}  // namespace wyvern::fs
