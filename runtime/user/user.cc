#include "user/user.h"

#include <fcntl.h>
#include <linux/limits.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <optional>
#include <set>
#include <string_view>

#include "base/fd.h"

namespace wyvern::runtime {
namespace {

constexpr size_t kMaxFile = 4U << 20U;
constexpr uint32_t kNoId = UINT32_MAX;  // (uid_t)-1: "leave it as it is" to setresuid(2)

// The first fields of a line of passwd or group; those that it does not have are empty.
using Fields = std::array<std::string_view, 4>;

std::string_view CutAt(std::string_view& rest, char separator) {
  const size_t end = std::min(rest.find(separator), rest.size());
  const std::string_view part = rest.substr(0, end);
  rest.remove_prefix(std::min(end + 1, rest.size()));
  return part;
}

Fields FieldsOf(std::string_view line) {
  Fields fields;
  for (std::string_view& field : fields) {
    field = CutAt(line, ':');
  }
  return fields;
}

// The first line of `text` that `wanted` takes.
template <typename Wanted>
std::optional<Fields> FindLine(std::string_view text, const Wanted& wanted) {
  while (!text.empty()) {
    const Fields fields = FieldsOf(CutAt(text, '\n'));
    if (!fields[0].empty() && wanted(fields)) {
      return fields;
    }
  }
  return std::nullopt;
}

bool IsNumber(std::string_view text) {
  return !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
}

std::optional<uint32_t> IdOf(std::string_view text) {
  uint32_t id = kNoId;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), id);
  const bool whole = error == std::errc() && end == text.data() + text.size();
  return whole && id != kNoId ? std::optional(id) : std::nullopt;
}

bool Lists(std::string_view members, std::string_view user) {
  while (!members.empty()) {
    if (CutAt(members, ',') == user) {
      return true;
    }
  }
  return false;
}

std::string Quoted(std::string_view text) {
  return "\"" + std::string(text) + "\"";
}

// The entry of the user, if there is one: by number for a number, else by name.
std::optional<Fields> FindEntry(const UserFiles& files, std::string_view user) {
  const auto id = IsNumber(user) ? IdOf(user) : std::nullopt;
  return FindLine(files.passwd, [&](const Fields& line) {
    return IsNumber(user) ? id.has_value() && IdOf(line[2]) == id : line[0] == user;
  });
}

Result<uint32_t> FindGroup(const UserFiles& files, std::string_view group) {
  std::string_view number = group;
  if (!IsNumber(group)) {
    const auto entry =
        FindLine(files.group, [group](const Fields& line) { return line[0] == group; });
    if (!entry.has_value()) {
      return Fail(Code::kNotFound, "/etc/group has no group " + Quoted(group));
    }
    number = (*entry)[2];
  }
  const auto id = IdOf(number);
  if (!id.has_value()) {
    return Fail(Code::kInvalidArgument, "the group " + Quoted(group) + " has no valid number");
  }
  return *id;
}

// The groups that list the user, after its own; each once.
Result<std::vector<uint32_t>> GroupsOf(const UserFiles& files, std::string_view user,
                                       uint32_t own) {
  std::vector<uint32_t> groups = {own};
  std::set<uint32_t> seen = {own};
  static_cast<void>(FindLine(files.group, [&](const Fields& line) {
    const auto id = IdOf(line[2]);
    if (id.has_value() && Lists(line[3], user) && seen.insert(*id).second) {
      groups.push_back(*id);
    }
    return groups.size() > NGROUPS_MAX;
  }));
  if (groups.size() > NGROUPS_MAX) {
    // Without the name, which may be the container's invention.
    return Fail(Code::kResourceExhausted,
                "/etc/group has the user in more groups than Linux allows");
  }
  return groups;
}

// A symlink is resolved in the root; what is no regular file is not opened: a FIFO or a device could do anything then, or block.
Result<UniqueFd> OpenInRoot(FdRef root, const char* path) {
  open_how how{};
  how.flags = O_PATH | O_CLOEXEC;
  how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
  UniqueFd found(static_cast<int>(syscall(SYS_openat2, root.get(), path, &how, sizeof(how))));
  if (!found.valid()) {
    return SysError(path);
  }
  return found;
}

Result<std::string> ReadUserFile(const std::vector<std::string>& roots, const char* path) {
  for (const std::string& directory : roots) {
    WV_TRY(const UniqueFd root, Open(directory, O_PATH | O_DIRECTORY));
    const auto found = OpenInRoot(root, path);
    if (!found.has_value() && found.error().sys_errno() == ENOENT) {
      continue;
    }
    if (!found.has_value()) {
      return std::
          string();  // the container's own doing: a loop of symlinks, a file for a directory
    }
    WV_TRY(const struct stat info, Fstat(*found));
    if (!S_ISREG(info.st_mode)) {
      return std::string();  // also a layer's whiteout, which hides what is below
    }
    // Regular files of a /proc that is mounted there may block, too.
    WV_TRY(const UniqueFd file,
           Open("/proc/self/fd/" + std::to_string(found->get()), O_RDONLY | O_NONBLOCK));
    return ReadToEnd(file, kMaxFile);
  }
  return std::string();
}

}  // namespace

Result<UserFiles> ReadUserFiles(const std::vector<std::string>& roots) {
  UserFiles files;
  WV_TRY_CONTEXT(files.passwd, ReadUserFile(roots, "/etc/passwd"), "/etc/passwd");
  WV_TRY_CONTEXT(files.group, ReadUserFile(roots, "/etc/group"), "/etc/group");
  return files;
}

Result<UserIds> FindUser(const UserFiles& files, const std::string& user) {
  std::string_view group = user;
  std::string_view name = CutAt(group, ':');
  if (group.find(':') != std::string_view::npos || (name.empty() && !user.empty())) {
    return Fail(Code::kInvalidArgument,
                "a user is UID, UID:GID, NAME or NAME:GROUP, not " + Quoted(user));
  }
  name = name.empty() ? "0" : name;
  const auto entry = FindEntry(files, name);
  if (!entry.has_value() && !IsNumber(name)) {
    return Fail(Code::kNotFound, "/etc/passwd has no user " + Quoted(name));
  }
  const auto uid = IdOf(entry.has_value() ? (*entry)[2] : name);
  const auto gid = entry.has_value() ? IdOf((*entry)[3]) : std::optional<uint32_t>(0);
  if (!uid.has_value() || !gid.has_value()) {
    return Fail(Code::kInvalidArgument, "the user " + Quoted(name) + " has no valid numbers");
  }
  UserIds ids{.uid = *uid, .gid = *gid, .groups = {*gid}};
  if (!group.empty()) {
    WV_TRY(ids.gid, FindGroup(files, group));
    ids.groups = {ids.gid};
  } else if (entry.has_value()) {
    WV_TRY(ids.groups, GroupsOf(files, (*entry)[0], ids.gid));
  }
  return ids;
}

}  // namespace wyvern::runtime
