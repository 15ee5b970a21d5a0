#include "fs/differential/acl.h"

#include <linux/posix_acl.h>
#include <linux/posix_acl_xattr.h>

#include <cstring>

namespace wyvern::fs::differential {

namespace {

struct AclEntry {
  uint16_t tag;
  uint16_t permissions;
  uint32_t id;
};

static_assert(sizeof(AclEntry) == 8);  // posix_acl_xattr_entry

constexpr uint32_t kAclVersion = POSIX_ACL_XATTR_VERSION;
constexpr auto kNoId = static_cast<uint32_t>(ACL_UNDEFINED_ID);

// Entries of an ACL, in their order: one at a time.
class AclReader {
 public:
  explicit AclReader(const std::string& acl) : acl_(acl) {}

  bool Next(AclEntry* out) {
    if (at_ + sizeof(*out) > acl_.size()) {
      return false;
    }
    std::memcpy(out, acl_.data() + at_, sizeof(*out));
    at_ += sizeof(*out);
    return true;
  }

  uint32_t Mask() {
    AclEntry entry{};
    AclReader all(acl_);
    while (all.Next(&entry)) {
      if (entry.tag == ACL_MASK) {
        return entry.permissions;
      }
    }
    return 7;
  }

 private:
  const std::string& acl_;
  size_t at_ = sizeof(kAclVersion);
};

}  // namespace

std::string MakeAcl(uint64_t seed) {
  Random random(seed);
  const uint64_t fault = random.Below(24);  // of these a few are faults
  const uint32_t version = fault == 0 ? kAclVersion + 1 : kAclVersion;
  std::string acl(reinterpret_cast<const char*>(&version), sizeof(version));
  bool named = false;
  const auto add = [&](uint16_t tag, uint32_t id) {
    const AclEntry entry{tag, static_cast<uint16_t>(random.Below(8)), id};
    acl.append(reinterpret_cast<const char*>(&entry), sizeof(entry));
    named = named || id != kNoId;
  };
  add(ACL_USER_OBJ, kNoId);
  for (const uint32_t user : {1000U, 2000U}) {
    if (random.OneIn(2)) {
      add(ACL_USER, user);
    }
  }
  add(ACL_GROUP_OBJ, kNoId);
  for (const uint32_t group : {50U, 1000U}) {
    if (random.OneIn(3)) {
      add(ACL_GROUP, group);
    }
  }
  if ((named || random.OneIn(4)) && fault != 1) {
    add(ACL_MASK, kNoId);
  }
  if (fault != 2) {
    add(ACL_OTHER, kNoId);
  }
  if (fault == 3) {
    acl.pop_back();
  }
  return fault == 4 ? std::string() : acl;
}

// As Linux' posix_acl_permission, for a user of one group.
bool AclPermits(const std::string& acl, uint32_t group_of_file, const User& user, uint32_t wanted) {
  AclReader reader(acl);
  const uint32_t mask = reader.Mask();
  bool of_a_group = false;
  AclEntry entry{};
  while (reader.Next(&entry)) {
    const bool is_user = entry.tag == ACL_USER && entry.id == user.uid;
    const bool is_group = (entry.tag == ACL_GROUP_OBJ && user.gid == group_of_file) ||
                          (entry.tag == ACL_GROUP && entry.id == user.gid);
    const bool enough = (wanted & ~uint32_t{entry.permissions}) == 0;
    if (is_user || (is_group && enough)) {
      return (wanted & ~(entry.permissions & mask)) == 0;
    }
    of_a_group = of_a_group || is_group;
    if (entry.tag == ACL_OTHER) {
      return !of_a_group && enough;
    }
  }
  return false;
}

}  // namespace wyvern::fs::differential
