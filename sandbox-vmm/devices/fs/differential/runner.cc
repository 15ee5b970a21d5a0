#include "fs/differential/runner.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/falloc.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <iterator>

#include "fs/differential/acl.h"
#include "fs/differential/map_step.h"

namespace wyvern::fs::differential {

namespace {

constexpr int64_t kFirstClockTime = 1'000'000'000;  // earlier times were set, not passed

std::string ShowTime(const TimeValue& time) {
  return time.seconds >= kFirstClockTime ? "now"
                                         : fmt::format("{}.{:09}", time.seconds, time.nanoseconds);
}

// Every slot that a step opens knows this of its file.
void Note(uint32_t flags, FileRef& file) {
  file->direct = (flags & O_DIRECT) != 0;
  file->writable = (flags & O_ACCMODE) != O_RDONLY;
}

bool ActsOnFile(Op op) {
  switch (op) {
    case Op::kClose:
    case Op::kRead:
    case Op::kWrite:
    case Op::kTruncateFile:
    case Op::kAllocate:
    case Op::kSeek:
    case Op::kMap:
    case Op::kCopy:
    case Op::kSync:
    case Op::kStatFile:
    case Op::kLock:
    case Op::kGetLock:
    case Op::kFlock:
      return true;
    default:
      return false;
  }
}

bool ActsOnName(Op op) {
  switch (op) {
    case Op::kOpen:
    case Op::kTmpFile:
    case Op::kLinkFile:
    case Op::kMakeDirectory:
    case Op::kRemoveDirectory:
    case Op::kUnlink:
    case Op::kRename:
    case Op::kSymlink:
    case Op::kMakeNode:
      return true;
    default:
      return false;
  }
}

}  // namespace

std::string ErrorOr(int error, const std::string& result) {
  return error == 0 ? result : strerrorname_np(error);
}

int Runner::Walk(const std::vector<std::string>& path, NodeRef* directory) {
  NodeRef at = target_.Root();
  for (size_t i = 0; i + 1 < path.size(); ++i) {
    NodeRef next;
    if (const int error = target_.LookUp(at, path[i], &next); error != 0) {
      return error;
    }
    if (next->type != S_IFDIR) {
      return ENOTDIR;
    }
    at = next;
  }
  *directory = at;
  return 0;
}

int Runner::Find(const std::vector<std::string>& path, NodeRef* directory, NodeRef* node) {
  const int error = Walk(path, directory);
  return error != 0 ? error : target_.LookUp(*directory, path.back(), node);
}

std::string Runner::Run(const Step& step) {
  if (ActsOnFile(step.op)) {
    return RunOnFile(step);
  }
  NodeRef directory;
  if (ActsOnName(step.op)) {
    const int error = Walk(step.path, &directory);
    return error != 0 ? ErrorOr(error) : RunOnName(step, directory);
  }
  NodeRef node;
  const int error = Find(step.path, &directory, &node);
  return error != 0 ? ErrorOr(error) : RunOnNode(step, node);
}

void Runner::CloseAll() {
  for (FileRef& slot : slots_) {
    slot.reset();
  }
}

std::string Runner::Show(const Attributes& attributes) const {
  const bool directory = S_ISDIR(attributes.mode);
  return fmt::format(
      "mode={:o} nlink={} uid={} gid={} size={} blksize={} rdev={}:{} atime={} mtime={}",
      attributes.mode, attributes.nlink, attributes.uid, attributes.gid,
      directory ? "-" : std::to_string(attributes.size), attributes.blksize, attributes.major,
      attributes.minor, options_.access_times ? ShowTime(attributes.atime) : "-",
      ShowTime(attributes.mtime));
}

std::string Runner::RunLock(const Step& step, File& file) {
  LockRange range{step.flags, step.offset, step.length, step.mode != 0};
  if (step.op == Op::kLock) {
    return ErrorOr(file.SetLock(range));
  }
  const int error = file.GetLock(&range);
  return ErrorOr(error, range.type == F_UNLCK ? "free"
                                              : fmt::format("type={} start={} length={}",
                                                            range.type, range.start, range.length));
}

// README.md, "What is not, and why".
std::string Runner::Allocate(const Step& step, File& file, uint64_t offset, uint64_t length) {
  constexpr uint32_t kRefused =
      FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_INSERT_RANGE | FALLOC_FL_UNSHARE_RANGE;
  if (options_.beside && (step.flags & kRefused) != 0) {
    return ErrorOr(file.writable ? EOPNOTSUPP : EBADF);
  }
  return ErrorOr(file.Allocate(step.flags, offset, length));
}

std::string Runner::RunOnFile(const Step& step) {
  FileRef& slot = slots_[step.slot];
  if (slot == nullptr) {
    return "no file";
  }
  File& file = *slot;
  const uint64_t offset = file.direct ? Aligned(step.offset) : step.offset;
  const uint64_t length = file.direct ? AlignedUp(step.length) : step.length;
  switch (step.op) {
    case Op::kClose:
      slot.reset();
      return "ok";
    case Op::kRead: {
      std::string data;
      const int error = file.Read(offset, length, &data);
      return ErrorOr(error, fmt::format("{} bytes {:016x}", data.size(), HashOf(data)));
    }
    case Op::kWrite: {
      size_t written = 0;
      const int error = file.Write(offset, MakeBytes(step.data, length), &written);
      return ErrorOr(error, fmt::format("{} bytes", written));
    }
    case Op::kTruncateFile:
      return ErrorOr(file.Truncate(offset));
    case Op::kAllocate:
      return Allocate(step, file, offset, length);
    case Op::kSeek: {
      uint64_t found = 0;
      const int error = file.Seek(step.flags, step.offset, &found);
      return ErrorOr(error, std::to_string(found));
    }
    case Op::kMap:
      return RunMap(step, file);
    case Op::kCopy: {
      FileRef& to = slots_[step.other_slot];
      if (to == nullptr) {
        return "no file";
      }
      uint64_t done = 0;
      const int error = file.CopyTo(*to, step.offset, step.other_offset, step.length, &done);
      return ErrorOr(error, fmt::format("{} bytes", done));
    }
    case Op::kSync:
      return ErrorOr(file.Sync());
    case Op::kStatFile: {
      Attributes attributes;
      const int error = file.GetAttributes(&attributes);
      return ErrorOr(error, Show(attributes));
    }
    case Op::kFlock:
      return ErrorOr(file.Flock(step.flags));
    default:
      return RunLock(step, file);
  }
}

std::string Runner::Open(const Step& step, const NodeRef& directory) {
  NodeRef existing;
  const int error = target_.LookUp(directory, step.path.back(), &existing);
  if (error != 0 && error != ENOENT) {
    return ErrorOr(error);
  }
  Step opening = step;
  const bool exclusive = (step.flags & O_CREAT) != 0 && (step.flags & O_EXCL) != 0;
  if (existing == nullptr && (step.flags & O_CREAT) == 0) {
    return ErrorOr(ENOENT);
  }
  if (existing != nullptr && !exclusive) {
    if (existing->type != S_IFREG) {
      // A guest opens its own FIFOs and devices, and says no to the others by itself.
      return fmt::format("is of type {:o}", existing->type);
    }
    opening.user = {};  // permission to open what is there is the guest kernel's
  }
  FileRef file;
  const int opened = target_.Open(directory, step.path.back(), existing, opening, &file);
  if (opened == 0) {
    Note(step.flags, file);
    slots_[step.slot] = std::move(file);
  }
  return ErrorOr(opened);
}

std::string Runner::RunOnName(const Step& step, const NodeRef& directory) {
  const std::string& name = step.path.back();
  switch (step.op) {
    case Op::kOpen:
      return Open(step, directory);
    case Op::kTmpFile: {
      FileRef file;
      const int error = target_.MakeTemporary(directory, step, &file);
      if (error == 0) {
        Note(step.flags, file);
        slots_[step.slot] = std::move(file);
      }
      return ErrorOr(error);
    }
    case Op::kLinkFile:
      return slots_[step.slot] == nullptr
                 ? "no file"
                 : ErrorOr(target_.LinkFile(*slots_[step.slot], directory, name));
    case Op::kMakeDirectory:
      return ErrorOr(target_.MakeDirectory(directory, name, step));
    case Op::kMakeNode:
      return ErrorOr(target_.MakeNode(directory, name, step));
    case Op::kSymlink:
      return ErrorOr(target_.MakeSymlink(directory, name, step));
    case Op::kRename: {
      NodeRef to;
      const int error = Walk(step.other, &to);
      return ErrorOr(
          error != 0 ? error : target_.Rename(directory, name, to, step.other.back(), step.flags));
    }
    default:
      return ErrorOr(target_.Remove(directory, name, step.op == Op::kRemoveDirectory));
  }
}

std::string Runner::RunXattr(const Step& step, const NodeRef& node) {
  const bool acl = step.text.starts_with("system.posix_acl_");
  if ((acl && !options_.acls) || (step.text.starts_with("trusted.") && !options_.trusted_xattrs)) {
    return "not on this target";
  }
  switch (step.op) {
    case Op::kSetXattr:
      return ErrorOr(target_.SetXattr(node, step.text,
                                      acl ? MakeAcl(step.data) : MakeBytes(step.data, step.length),
                                      step.flags));
    case Op::kGetXattr: {
      std::string value;
      const int error = target_.GetXattr(node, step.text, &value);
      return ErrorOr(error, fmt::format("{} bytes {:016x}", value.size(), HashOf(value)));
    }
    default:
      return ErrorOr(target_.RemoveXattr(node, step.text));
  }
}

std::string ShowXattrs(Target& target, const NodeRef& node) {
  std::vector<std::string> names;
  if (const int error = target.ListXattrs(node, &names); error != 0) {
    return ErrorOr(error);
  }
  std::ranges::sort(names);
  std::string out;
  for (const std::string& name : names) {
    std::string value;
    const int error = target.GetXattr(node, name, &value);
    out += fmt::format(" {}={}", name, ErrorOr(error, fmt::format("{:016x}", HashOf(value))));
  }
  return out.empty() ? " none" : out;
}

std::string Runner::RunOnNode(const Step& step, const NodeRef& node) {
  switch (step.op) {
    case Op::kTruncate:
      return ErrorOr(target_.Truncate(node, step.offset));
    case Op::kLink: {
      NodeRef to;
      const int error = Walk(step.other, &to);
      return ErrorOr(error != 0 ? error : target_.Link(node, to, step.other.back()));
    }
    case Op::kReadLink: {
      std::string text;
      const int error = target_.ReadLink(node, &text);
      return ErrorOr(error, Escape(text));
    }
    case Op::kChmod:
      return ErrorOr(target_.ChangeMode(node, step.mode));
    case Op::kChown:
      return ErrorOr(target_.ChangeOwner(node, step.user));
    case Op::kTimes:
      return ErrorOr(target_.SetTimes(node, step.atime, step.mtime));
    case Op::kListXattr:
      return ShowXattrs(target_, node);
    case Op::kStat: {
      Attributes attributes;
      const int error = target_.GetAttributes(node, &attributes);
      return ErrorOr(error, Show(attributes));
    }
    case Op::kStatFs: {
      FileSystemInfo info;
      const int error = target_.GetFileSystem(node, &info);
      return ErrorOr(
          error, fmt::format("bsize={} frsize={} namelen={} blocks={} files={}", info.block_size,
                             info.fragment_size, info.name_length, info.blocks, info.files));
    }
    case Op::kList: {
      if (node->type != S_IFDIR) {
        return ErrorOr(ENOTDIR);
      }
      std::vector<DirectoryItem> items;
      const int error = target_.List(node, step.length, &items);
      std::ranges::sort(items, {}, &DirectoryItem::name);
      std::string out = fmt::format("{} names:", items.size());
      for (const DirectoryItem& item : items) {
        fmt::format_to(std::back_inserter(out), " {}({})", Escape(item.name), item.type);
      }
      return ErrorOr(error, out);
    }
    default:
      return RunXattr(step, node);
  }
}

std::string Runner::ShowNode(const NodeRef& node) {
  Attributes attributes;
  const int error = target_.GetAttributes(node, &attributes);
  return ErrorOr(error, Show(attributes));
}

}  // namespace wyvern::fs::differential
