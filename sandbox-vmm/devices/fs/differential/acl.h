// fs/differential/acl.h — POSIX ACLs as their xattrs hold them: made for a script, and asked as a
// guest's kernel does.
// Threads: any.
#pragma once

#include <cstdint>
#include <string>

#include "fs/differential/step.h"

namespace wyvern::fs::differential {

// One that differs with the seed; now and then none that is valid.
std::string MakeAcl(uint64_t seed);
// Whether somebody who is not the owner may do all of `wanted` (bits of rwx).
bool AclPermits(const std::string& acl, uint32_t group_of_file, const User& user, uint32_t wanted);

}  // namespace wyvern::fs::differential
