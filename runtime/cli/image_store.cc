#include "cli/image_store.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <set>
#include <utility>

#include "base/log.h"
#include "cli/digest.h"
#include "storage/remove_tree.h"
#include "storage/rootfs.h"

namespace wyvern::cli {

namespace {

// False: others hold it, and `operation` says not to wait.
Result<bool> LockFile(FdRef file, int operation, const std::string& path) {
  while (flock(file.get(), operation) != 0) {
    if (errno == EWOULDBLOCK) {
      return false;
    }
    if (errno != EINTR) {
      return SysError("lock " + path);
    }
  }
  return true;
}

Result<UniqueFd> OpenLock(const std::string& store) {
  return Open(store + "/.lock", O_RDWR | O_CREAT, 0600);
}

// What removing it frees; hard links among its files count once.
uint64_t DiskUsage(const std::string& path) {
  uint64_t blocks = 0;
  std::set<ino_t> seen;
  const auto add = [&blocks, &seen](const std::string& file) {
    struct stat info = {};
    if (lstat(file.c_str(), &info) == 0 &&
        (info.st_nlink < 2 || S_ISDIR(info.st_mode) || seen.insert(info.st_ino).second)) {
      blocks += static_cast<uint64_t>(info.st_blocks);
    }
  };
  add(path);
  std::error_code error;
  for (std::filesystem::recursive_directory_iterator it(path, error), end; !error && it != end;
       it.increment(error)) {
    add(it->path().string());
  }
  return blocks * 512;  // stat(2)
}

std::vector<std::string> NamesIn(const std::string& directory, std::error_code& error) {
  std::vector<std::string> names;
  for (std::filesystem::directory_iterator it(directory, error), end; !error && it != end;
       it.increment(error)) {
    names.push_back(it->path().filename().string());
  }
  return names;
}

class Prune {
 public:
  explicit Prune(std::string store) : store_(std::move(store)) {}

  // Preconditions: nobody else has the store locked.
  Result<Pruned> Run();

 private:
  void Remove(const std::string& path, const std::string& name);
  Result<> RemoveLayer(const std::string& path);

  const std::string store_;
  Pruned pruned_;
};

// `name`: what the user knows it as.
void Prune::Remove(const std::string& path, const std::string& name) {
  const uint64_t bytes = DiskUsage(path);
  if (const auto removed = runtime::RemoveTree(path); !removed.has_value()) {
    pruned_.left.push_back(name + ": " + removed.error().message());
    return;
  }
  pruned_.bytes += bytes;
}

Result<> Prune::RemoveLayer(const std::string& path) {
  WV_TRY(const UniqueFd layer, Open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
  WV_TRY(const bool unused, LockFile(layer, LOCK_EX | LOCK_NB, path));
  if (!unused) {
    ++pruned_.in_use;
    return {};
  }
  WV_TRY(const std::vector<std::string> mounts, runtime::MountsBelow(path));
  if (!mounts.empty()) {
    return Fail(Code::kFailedPrecondition,
                fmt::format("something is mounted there: umount {}", mounts.back()));
  }
  std::string doomed = store_ + "/layers/prune-XXXXXX";
  if (mkdtemp(doomed.data()) == nullptr) {
    return SysError("create " + doomed);
  }
  if (rename(path.c_str(), doomed.c_str()) != 0) {
    const int error = errno;
    rmdir(doomed.c_str());
    return SysErrorFrom(error, "rename");
  }
  ++pruned_.removed;
  Remove(doomed, path);
  return {};
}

Result<Pruned> Prune::Run() {
  const auto leftover = [](const std::string& name) {
    return name.starts_with("unpack-") || name.starts_with("prune-");
  };
  std::error_code error;
  for (const std::string& name : NamesIn(store_, error)) {
    if (name.starts_with("archive-")) {
      const std::string path = fmt::format("{}/{}", store_, name);
      Remove(path, path);
    }
  }
  if (error) {
    return SysErrorFrom(error.value(), "list " + store_);
  }
  const std::string layers = store_ + "/layers";
  for (const std::string& name : NamesIn(layers, error)) {
    const std::string path = fmt::format("{}/{}", layers, name);
    if (leftover(name)) {
      Remove(path, path);
    } else if (IsSha256("sha256:" + name)) {
      if (const auto removed = RemoveLayer(path); !removed.has_value()) {
        pruned_.left.push_back(path + ": " + removed.error().message());
      }
    }
  }
  if (error && error != std::errc::no_such_file_or_directory) {
    return SysErrorFrom(error.value(), "list " + layers);
  }
  return std::move(pruned_);
}

}  // namespace

Result<UniqueFd> LockStore(const std::string& store) {
  std::error_code error;
  std::filesystem::create_directories(store, error);
  if (error) {
    return SysErrorFrom(error.value(), "create " + store);
  }
  WV_TRY(UniqueFd lock, OpenLock(store));
  WV_TRY_VOID(LockFile(lock, LOCK_SH, store));
  return lock;
}

Result<UniqueFd> HoldLayer(const std::string& layer) {
  WV_TRY(UniqueFd fd, Open(layer, O_RDONLY | O_DIRECTORY));
  WV_TRY_VOID(LockFile(fd, LOCK_SH, layer));
  return fd;
}

Result<Pruned> PruneStore(const std::string& store) {
  struct stat info = {};
  if (stat(store.c_str(), &info) != 0 && errno == ENOENT) {
    return Pruned();
  }
  WV_TRY(const UniqueFd lock, OpenLock(store));
  WV_TRY(const bool locked, LockFile(lock, LOCK_EX | LOCK_NB, store));
  if (!locked) {
    WV_INFO("waiting: a run unpacks an image");
    WV_TRY_VOID(LockFile(lock, LOCK_EX, store));
  }
  return Prune(store).Run();
}

}  // namespace wyvern::cli
