// user/user.h — users and groups by name, as a container's own /etc/passwd and /etc/group have them; never the host's.
// Shape:   what docker and containerd make of "--user": a number is an id, whatever names there are; a user's group is that of its passwd
//          entry unless one is given; supplementary groups are those that list the user, and none if a group is given.
// Trust:   root and files are the container's, which may run and change them: nothing outside of the root is opened, nothing but regular
//          files is read, at most 4 MiB of each.
// Threads: any; nothing blocks but the file system.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/error.h"

namespace wyvern::runtime {

// What the files say; nothing of one that is not there, or is no regular file.
struct UserFiles {
  std::string passwd;
  std::string group;
};

// `roots`: directories, uppermost first, as the layers of an image; the first that has the file has it for all. RESOURCE_EXHAUSTED: more than
// 4 MiB.
Result<UserFiles> ReadUserFiles(const std::vector<std::string>& roots);

struct UserIds {
  uint32_t uid = 0;
  uint32_t gid = 0;
  // For additionalGids. The primary one is among them: a process could else drop it and so evade what a file denies to its group
  // (CVE-2022-36109).
  std::vector<uint32_t> groups;
};

// "USER" or "USER:GROUP", each a number or a name; "" is root. NOT_FOUND: there is no such name. INVALID_ARGUMENT: it is neither, or what the
// files say of it is no number. RESOURCE_EXHAUSTED: more groups than Linux gives a process.
Result<UserIds> FindUser(const UserFiles& files, const std::string& user);

}  // namespace wyvern::runtime
