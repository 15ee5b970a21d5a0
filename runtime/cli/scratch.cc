#include "cli/scratch.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <cerrno>
#include <filesystem>

#include "base/log.h"
#include "oci/spec.h"
#include "storage/remove_tree.h"
#include "storage/rootfs.h"

namespace wyvern::cli {

namespace {

Result<> MakeScratchDirectories(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) {
    return SysErrorFrom(error.value(), "create " + path);
  }
  return {};
}

// Says what to do about it; to remove what is mounted there would be to remove the user's files.
Error Exists(const std::string& name, const std::string& path) {
  const auto mounts = runtime::MountsBelow(path);
  const std::string first = mounts.has_value() && !mounts->empty()
                                ? fmt::format("unmount {} and remove", mounts->back())
                                : "remove";
  return {Code::kAlreadyExists,
          fmt::format("a run named {} exists: choose another --name, or {} {}", name, first, path)};
}

}  // namespace

Result<Scratch> Scratch::Create(const std::string& name, const std::string& directory) {
  WV_TRY_VOID(oci::CheckId(name));
  WV_TRY_VOID(MakeScratchDirectories(directory));
  std::string path = directory + "/" + name;
  if (mkdir(path.c_str(), 0777) != 0) {
    return errno == EEXIST ? tl::unexpected(Exists(name, path)) : SysError("create " + path);
  }
  Scratch scratch(std::move(path));
  for (const char* part : {"/bundle/rootfs", "/upper", "/work"}) {
    WV_TRY_VOID(MakeScratchDirectories(scratch.path_ + part));
  }
  return scratch;
}

Scratch::~Scratch() {
  if (path_.empty()) {
    return;
  }
  if (const auto removed = runtime::RemoveTree(path_); !removed.has_value()) {
    WV_WARN("{}", removed.error().message());
  }
}

}  // namespace wyvern::cli
