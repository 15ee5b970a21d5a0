#include "guest/module_tree.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <sstream>
#include <vector>

#include "guest/elf_file.h"
#include "guest/unpack.h"

namespace wyvern::guest {

namespace {

constexpr size_t kMaxModules = 50'000;
constexpr int kMaxDepth = 16;
constexpr size_t kMaxModuleBytes = 128U << 20U;
constexpr size_t kMaxList = 4U << 20U;
// In the order in which modprobe prefers them (depmod.d(5): "search updates built-in").
constexpr const char* kTrees[] = {"updates", "kernel", "extra"};

struct DirectoryCloser {
  void operator()(DIR* directory) const { (void)closedir(directory); }
};

Result<UniqueFd> OpenBelow(FdRef root, const std::string& path, uint64_t flags) {
  open_how how{};
  how.flags = flags | O_CLOEXEC;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
  UniqueFd fd(static_cast<int>(syscall(SYS_openat2, root.get(), path.c_str(), &how, sizeof(how))));
  if (!fd.valid()) {
    return SysError("open " + path);
  }
  return fd;
}

struct Entry {
  std::string name;
  bool directory = false;
};

// Sorted, so that the same tree gives the same result everywhere.
Result<std::vector<Entry>> List(UniqueFd fd) {
  const std::unique_ptr<DIR, DirectoryCloser> stream(fdopendir(fd.get()));
  if (stream == nullptr) {
    return SysError("read a directory of modules");
  }
  (void)fd.Release();
  std::vector<Entry> entries;
  errno = 0;
  // NOLINTNEXTLINE(concurrency-mt-unsafe): the stream is ours alone
  while (const dirent* entry = readdir(stream.get())) {
    struct stat info {};

    if (entry->d_name[0] != '.' && entries.size() <= kMaxModules &&
        fstatat(dirfd(stream.get()), entry->d_name, &info, AT_SYMLINK_NOFOLLOW) == 0 &&
        (S_ISDIR(info.st_mode) || S_ISREG(info.st_mode))) {
      entries.push_back({.name = entry->d_name, .directory = S_ISDIR(info.st_mode)});
    }
    errno = 0;
  }
  if (errno != 0) {
    return SysError("read a directory of modules");
  }
  std::ranges::sort(entries, {}, &Entry::name);
  return entries;
}

bool IsDirectory(const std::string& path) {
  struct stat info {};

  return stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

}  // namespace

std::string ModuleName(std::string_view path) {
  std::string_view file = path.substr(path.rfind('/') + 1);
  const size_t end = file.find(".ko");
  if (end == std::string_view::npos) {
    return {};
  }
  const std::string_view ending = file.substr(end);
  if (ending != ".ko" && ending != ".ko.xz" && ending != ".ko.zst" && ending != ".ko.gz") {
    return {};
  }
  std::string name(file.substr(0, end));
  std::ranges::replace(name, '-', '_');
  return name;
}

Result<ModuleTree> ModuleTree::Open(const std::string& directory, const std::string& release) {
  ModuleTree tree;
  tree.directory_ = directory;
  if (!IsDirectory(directory + "/kernel") && IsDirectory(directory + "/" + release)) {
    tree.directory_ += "/" + release;
  }
  auto root = wyvern::Open(tree.directory_, O_DIRECTORY | O_RDONLY);
  if (!root || !IsDirectory(tree.directory_ + "/kernel")) {
    return Fail(Code::kNotFound,
                fmt::format("{} holds no modules: give --modules the directory /lib/modules/{} of "
                            "the system or package that the kernel is from",
                            directory, release));
  }
  tree.root_ = std::move(*root);
  WV_TRY_CONTEXT(const UniqueFd list, OpenBelow(tree.root_, "modules.builtin", O_RDONLY),
                 tree.directory_ + " is not complete");
  WV_TRY_CONTEXT(const std::string text, ReadToEnd(list, kMaxList), "modules.builtin");
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    tree.built_in_.insert(ModuleName(line));
  }
  for (const char* name : kTrees) {
    WV_TRY_VOID_CONTEXT(tree.Index(name, 0), tree.directory_);
  }
  return tree;
}

Result<> ModuleTree::Index(const std::string& path, int depth) {
  auto fd = OpenBelow(root_, path, O_DIRECTORY | O_RDONLY);
  if (!fd && depth == 0) {
    return {};  // not every kernel has all of them
  }
  if (!fd) {
    return tl::unexpected(std::move(fd).error());
  }
  WV_TRY(const std::vector<Entry> entries, List(std::move(*fd)));
  for (const Entry& entry : entries) {
    const std::string below = path + "/" + entry.name;
    if (entry.directory) {
      if (depth >= kMaxDepth) {
        return Fail(Code::kInvalidArgument, below + ": too deep for a directory of modules");
      }
      WV_TRY_VOID(Index(below, depth + 1));
      continue;
    }
    if (const std::string name = ModuleName(entry.name); !name.empty()) {
      paths_.emplace(name, below);
    }
    if (paths_.size() > kMaxModules) {
      return Fail(Code::kInvalidArgument, "more modules than a kernel can have");
    }
  }
  return {};
}

Result<std::string> ModuleTree::Read(const std::string& name) const {
  const std::string& path = paths_.find(name)->second;
  WV_TRY(const UniqueFd file, OpenBelow(root_, path, O_RDONLY | O_NONBLOCK));
  WV_TRY_CONTEXT(std::string bytes, ReadToEnd(file, kMaxModuleBytes), path);
  const auto compression = DetectCompression(bytes);
  if (compression && !IsElf(bytes)) {
    WV_TRY_CONTEXT(bytes, Unpack(bytes, *compression, kMaxModuleBytes), path);
  }
  return bytes;
}

}  // namespace wyvern::guest
