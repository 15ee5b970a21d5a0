#include "agent/volume_files.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <filesystem>
#include <set>
#include <vector>

#include "base/fd.h"

namespace wyvern::agent {
namespace {

// Something in the way is moved away; a container may put it there again.
constexpr int kTries = 8;
constexpr char kData[] = "..data";

// One change of one volume.
class Change {
 public:
  Change(const std::string& top, const VolumeContent& content)
      : files_(top + "/files/"), staging_(top + "/new/"), content_(content) {}

  Result<> Do() {
    ClearStaging();
    WV_TRY_VOID(Write());
    WV_TRY_VOID(Put(content_.version, content_.version));
    WV_TRY_VOID(PutLink(kData, content_.version));
    for (const std::string& top : content_.tops) {
      WV_TRY_VOID(PutLink(top, std::string(kData) + "/" + top));
    }
    WV_TRY_VOID(TakeAwayOld());
    WV_TRY_VOID(SetOwner(files_, content_.owner));
    ClearStaging();
    return {};
  }

 private:
  void ClearStaging() {
    std::error_code error;
    for (std::filesystem::directory_iterator it(staging_, error), end; !error && it != end;
         it.increment(error)) {
      std::error_code ignored;
      std::filesystem::remove_all(it->path(), ignored);
    }
  }

  // The whole of a version, where no container sees it.
  Result<> Write() {
    const std::string root = staging_ + content_.version;
    if (mkdir(root.c_str(), 0755) != 0) {
      return SysError("mkdir of a version");
    }
    for (const VolumeEntry& entry : content_.entries) {
      const std::string path = root + "/" + entry.path;
      if (entry.directory) {
        if (mkdir(path.c_str(), 0700) != 0) {
          return SysError("mkdir " + entry.path);
        }
      } else {
        WV_TRY_CONTEXT(const UniqueFd file,
                       Open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600), "a file");
        WV_TRY_VOID_CONTEXT(WriteAll(file, std::string_view(entry.content)), entry.path);
      }
      WV_TRY_VOID(SetOwner(path, entry.owner));
    }
    return {};
  }

  // What is at files/<name> is ours to remove then.
  Result<> TakeAway(const std::string& name) {
    const std::string old = staging_ + "old-" + std::to_string(++counter_);
    if (rename((files_ + name).c_str(), old.c_str()) != 0 && errno != ENOENT) {
      return SysError("moving away '" + name + "'");
    }
    return {};
  }

  // new/<from> becomes files/<to>. Only a directory is in the way of a link, and anything is in that of a directory.
  Result<> Put(const std::string& from, const std::string& to) {
    const unsigned flags = from == content_.version ? RENAME_NOREPLACE : 0;
    for (int i = 0; i < kTries; ++i) {
      if (renameat2(AT_FDCWD, (staging_ + from).c_str(), AT_FDCWD, (files_ + to).c_str(), flags) ==
          0) {
        return {};
      }
      if (errno != EEXIST && errno != EISDIR && errno != ENOTEMPTY) {
        return SysError("putting '" + to + "' in place");
      }
      WV_TRY_VOID(TakeAway(to));
    }
    return Fail(Code::kAborted, "a container keeps putting something at '" + to + "'");
  }

  Result<> PutLink(const std::string& name, const std::string& target) {
    std::array<char, PATH_MAX> there{};
    const ssize_t length = readlink((files_ + name).c_str(), there.data(), there.size());
    if (length >= 0 && std::string_view(there.data(), static_cast<size_t>(length)) == target) {
      return {};
    }
    const std::string from = "link-" + std::to_string(++counter_);
    if (symlink(target.c_str(), (staging_ + from).c_str()) != 0) {
      return SysError("symlink to " + target);
    }
    return Put(from, name);
  }

  Result<> TakeAwayOld() {
    std::vector<std::string> old;
    std::error_code error;
    for (std::filesystem::directory_iterator it(files_, error), end; !error && it != end;
         it.increment(error)) {
      std::string name = it->path().filename().string();
      if (name != kData && name != content_.version && !content_.tops.contains(name)) {
        old.push_back(std::move(name));
      }
    }
    if (error) {
      return SysErrorFrom(error.value(), "reading the volume");
    }
    for (const std::string& name : old) {
      WV_TRY_VOID(TakeAway(name));
    }
    return {};
  }

  const std::string files_;
  const std::string staging_;
  const VolumeContent& content_;
  uint64_t counter_ = 0;
};

}  // namespace

Result<> SetOwner(const std::string& path, const VolumeOwner& owner) {
  WV_TRY(const UniqueFd fd, Open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK));
  // In this order: chown takes setuid and setgid away.
  if (fchown(fd.get(), owner.uid, owner.gid) != 0 || fchmod(fd.get(), owner.mode) != 0) {
    return SysError("setting the owner and mode of " + path);
  }
  return {};
}

Result<> MakeFilesVolume(const std::string& top, const VolumeOwner& owner) {
  if (mkdir((top + "/files").c_str(), 0700) != 0 || mkdir((top + "/new").c_str(), 0700) != 0) {
    return SysError("mkdir in " + top);
  }
  return SetOwner(top + "/files", owner);
}

Result<> ReplaceVolumeFiles(const std::string& top, const VolumeContent& content) {
  return Change(top, content).Do();
}

}  // namespace wyvern::agent
