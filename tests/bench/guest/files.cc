#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>

#include "guest/guest.h"

namespace bench_guest {

namespace {

constexpr size_t kBlock = 4096;
constexpr uint64_t kFileBlocks = 4096;
constexpr size_t kLarge = 1 << 20;
alignas(kBlock) char block[kLarge];

// The same blocks in every run and on every VMM.
uint64_t NextBlock() {
  static uint64_t state = 1;
  state = state * 6364136223846793005U + 1442695040888963407U;
  return (state >> 33U) % kFileBlocks;
}

int OpenDirectory(const char* path, int from = AT_FDCWD) {
  const int fd = openat(from, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) {
    End(path);
  }
  return fd;
}

}  // namespace

void RandomBlocks(const char* path, uint64_t count, bool write) {
  const int fd = open(path, (write ? O_WRONLY : O_RDONLY) | O_DIRECT | O_CLOEXEC);
  if (fd < 0) {
    End(path);
  }
  for (uint64_t i = 0; i < count; ++i) {
    const auto at = static_cast<off_t>(NextBlock() * kBlock);
    const ssize_t done = write ? pwrite(fd, block, kBlock, at) : pread(fd, block, kBlock, at);
    if (done != kBlock) {
      End("4 KiB at once");
    }
  }
  close(fd);
}

void ReadInOrder(const char* path, uint64_t mib) {
  const int fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
  if (fd < 0) {
    End(path);
  }
  for (uint64_t i = 0; i < mib; ++i) {
    if (read(fd, block, kLarge) != kLarge) {
      End("1 MiB at once");
    }
  }
  close(fd);
}

// These begin in the directory itself, as in a container's root: the way to it would be looked up each time.
void LookUpMissing(const char* directory, uint64_t count) {
  const int fd = OpenDirectory(directory);
  for (uint64_t i = 0; i < count; ++i) {
    char name[64];
    snprintf(name, sizeof(name), "missing-%llu", static_cast<unsigned long long>(i));

    struct stat info {};

    if (fstatat(fd, name, &info, 0) == 0) {
      End("a name that should not exist");
    }
  }
  close(fd);
}

void Walk(const char* directory, uint64_t directories) {
  const int fd = OpenDirectory(directory);
  for (uint64_t i = 0; i < directories; ++i) {
    char path[64];
    snprintf(path, sizeof(path), "tree/%llu", static_cast<unsigned long long>(i));
    DIR* list = fdopendir(OpenDirectory(path, fd));
    uint64_t files = 0;
    // NOLINTNEXTLINE(concurrency-mt-unsafe): there is one thread
    for (const dirent* entry = readdir(list); entry != nullptr; entry = readdir(list)) {
      if (entry->d_name[0] == '.') {
        continue;
      }

      struct stat info {};

      if (fstatat(dirfd(list), entry->d_name, &info, AT_SYMLINK_NOFOLLOW) != 0) {
        End(entry->d_name);
      }
      files += S_ISREG(info.st_mode) ? 1 : 0;
    }
    closedir(list);
    if (files != kFilesInDirectory) {
      End("as many files as the host made");
    }
  }
  close(fd);
}

void MakeAndRemove(const char* directory, uint64_t count) {
  const int fd = OpenDirectory(directory);
  for (uint64_t i = 0; i < count; ++i) {
    char name[64];
    snprintf(name, sizeof(name), "made-%llu", static_cast<unsigned long long>(i));
    const int file = openat(fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (file < 0 || write(file, block, kBlock) != kBlock || close(file) != 0 ||
        unlinkat(fd, name, 0) != 0) {
      End(name);
    }
  }
  close(fd);
}

}  // namespace bench_guest
