#include "fs/differential/fuse_target.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/stat.h>

#include <cerrno>

#include "fs/differential/acl.h"
#include "fs/differential/fuse_file.h"

namespace wyvern::fs::differential {

namespace {

using testing::Body;
using testing::Reply;

constexpr size_t kCachedNames = 64;

uint32_t EncodeRdev(uint32_t major, uint32_t minor) {
  return (minor & 0xffU) | (major << 8U) | ((minor & ~0xffU) << 12U);
}

}  // namespace

FuseTarget::FuseTarget(testing::Carrier carrier)
    : client_(std::move(carrier)),
      root_(std::make_shared<FuseNode>(client_, FUSE_ROOT_ID, nullptr)) {
  root_->type = S_IFDIR;
  acls_ = (client_.Init().As<fuse_init_out>().flags & FUSE_POSIX_ACL) != 0;
}

NodeRef FuseTarget::Adopt(const NodeRef& directory, const fuse_entry_out& entry) {
  auto node = std::make_shared<FuseNode>(client_, entry.nodeid, directory);
  node->type = entry.attr.mode & S_IFMT;
  cache_.push_back(node);
  if (cache_.size() > kCachedNames) {
    cache_.pop_front();
  }
  return node;
}

int FuseTarget::LookUp(const NodeRef& directory, const std::string& name, NodeRef* out) {
  const Reply reply = client_.Call(FUSE_LOOKUP, IdOf(directory), Body().Name(name));
  const auto entry = reply.As<fuse_entry_out>();
  if (reply.error != 0 || entry.nodeid == 0) {
    return reply.error != 0 ? reply.error : ENOENT;
  }
  *out = Adopt(directory, entry);
  return 0;
}

int FuseTarget::GetAttributes(const NodeRef& node, Attributes* out) {
  *out = ToAttributes(client_.GetAttr(IdOf(node)));
  return client_.error();
}

bool FuseTarget::Permits(const NodeRef& directory, const Attributes& attributes, const User& user,
                         uint32_t wanted) {
  if (user.uid == 0) {
    return true;
  }
  if (user.uid == attributes.uid) {
    return (wanted & ~(attributes.mode >> 6U)) == 0;
  }
  std::string acl;
  if (acls_ && (attributes.mode & S_IRWXG) != 0 &&
      GetXattr(directory, "system.posix_acl_access", &acl) == 0) {
    return AclPermits(acl, attributes.gid, user, wanted);
  }
  return (wanted & ~(attributes.mode >> (user.gid == attributes.gid ? 3U : 0U))) == 0;
}

int FuseTarget::MayMake(const NodeRef& directory, const std::string* name, const User& user) {
  constexpr uint32_t kWrite = 2;
  constexpr uint32_t kSearch = 1;
  NodeRef existing;
  const int found = name == nullptr ? ENOENT : LookUp(directory, *name, &existing);
  Attributes attributes;
  if (const int error = GetAttributes(directory, &attributes); error != 0) {
    return error;
  }
  if (!Permits(directory, attributes, user, kSearch)) {
    return EACCES;
  }
  if (found == 0) {
    return EEXIST;
  }
  if (found != ENOENT) {
    return found;
  }
  return Permits(directory, attributes, user, kWrite | kSearch) ? 0 : EACCES;
}

// With ACLs the umask is the server's. Before it counts Linux (6.0 and later) takes set-group-ID away
// from a program that somebody makes in a set-group-ID directory of a group that is not theirs.
uint32_t FuseTarget::ModeOf(const NodeRef& directory, const Step& step) {
  constexpr uint32_t kGroupProgram = S_ISGID | S_IXGRP;
  uint32_t mode = step.mode;
  Attributes attributes;
  if (step.user.uid != 0 && (mode & kGroupProgram) == kGroupProgram &&
      GetAttributes(directory, &attributes) == 0 && (attributes.mode & S_ISGID) != 0 &&
      attributes.gid != step.user.gid) {
    mode &= ~uint32_t{S_ISGID};
  }
  return acls_ ? mode : mode & ~(step.umask & 0777U);
}

int FuseTarget::Open(const NodeRef& directory, const std::string& name, const NodeRef& existing,
                     const Step& step, FileRef* out) {
  const bool exclusive = (step.flags & O_CREAT) != 0 && (step.flags & O_EXCL) != 0;
  if (existing != nullptr && !exclusive) {
    fuse_open_in in{};
    in.flags = step.flags & ~uint32_t{O_CREAT | O_EXCL};
    const Reply reply = client_.Call(FUSE_OPEN, IdOf(existing), Body().Put(in));
    if (reply.error == 0) {
      *out = std::make_unique<FuseFile>(client_, existing, reply.As<fuse_open_out>(), step.flags);
    }
    return reply.error;
  }
  if (const int error = MayMake(directory, &name, step.user); error != 0) {
    return error;
  }
  fuse_create_in in{};
  in.flags = step.flags;
  in.mode = S_IFREG | ModeOf(directory, step);
  in.umask = step.umask;
  client_.uid = step.user.uid;
  client_.gid = step.user.gid;
  const Reply reply = client_.Call(FUSE_CREATE, IdOf(directory), Body().Put(in).Name(name));
  client_.uid = client_.gid = 0;
  if (reply.error == 0) {
    NodeRef node = Adopt(directory, reply.As<fuse_entry_out>());
    *out = std::make_unique<FuseFile>(client_, std::move(node),
                                      reply.As<fuse_open_out>(sizeof(fuse_entry_out)), step.flags);
  }
  return reply.error;
}

int FuseTarget::MakeTemporary(const NodeRef& directory, const Step& step, FileRef* out) {
  if ((step.flags & O_ACCMODE) == O_RDONLY) {
    return EINVAL;  // open(2): such a file is of use only to who writes
  }
  if (const int error = MayMake(directory, nullptr, step.user); error != 0) {
    return error;
  }
  const uint32_t flags = step.flags & uint32_t{O_ACCMODE | O_EXCL | O_DIRECT | O_APPEND};
  fuse_create_in in{};
  in.flags = flags;
  in.mode = S_IFREG | ModeOf(directory, step);
  in.umask = step.umask;
  client_.uid = step.user.uid;
  client_.gid = step.user.gid;
  const Reply reply = client_.Call(FUSE_TMPFILE, IdOf(directory), Body().Put(in).Name("#tmp"));
  client_.uid = client_.gid = 0;
  if (reply.error == 0) {
    NodeRef node = Adopt(directory, reply.As<fuse_entry_out>());
    *out = std::make_unique<FuseFile>(client_, std::move(node),
                                      reply.As<fuse_open_out>(sizeof(fuse_entry_out)), flags);
  }
  return reply.error;
}

int FuseTarget::LinkFile(File& file, const NodeRef& directory, const std::string& name) {
  return Link(static_cast<FuseFile&>(file).node(), directory, name);
}

int FuseTarget::MakeEntry(uint32_t opcode, const NodeRef& directory, const Body& body,
                          const User& user) {
  client_.uid = user.uid;
  client_.gid = user.gid;
  const Reply reply = client_.Call(opcode, IdOf(directory), body);
  client_.uid = client_.gid = 0;
  if (reply.error == 0) {
    Adopt(directory, reply.As<fuse_entry_out>());
  }
  return reply.error;
}

int FuseTarget::MakeDirectory(const NodeRef& directory, const std::string& name, const Step& step) {
  if (const int error = MayMake(directory, &name, step.user); error != 0) {
    return error;
  }
  fuse_mkdir_in in{};
  in.mode = ModeOf(directory, step);
  in.umask = step.umask;
  return MakeEntry(FUSE_MKDIR, directory, Body().Put(in).Name(name), step.user);
}

int FuseTarget::MakeNode(const NodeRef& directory, const std::string& name, const Step& step) {
  if (const int error = MayMake(directory, &name, step.user); error != 0) {
    return error;
  }
  fuse_mknod_in in{};
  in.mode = ModeOf(directory, step);
  in.umask = step.umask;
  in.rdev = EncodeRdev(step.major, step.minor);
  return MakeEntry(FUSE_MKNOD, directory, Body().Put(in).Name(name), step.user);
}

int FuseTarget::MakeSymlink(const NodeRef& directory, const std::string& name, const Step& step) {
  if (const int error = MayMake(directory, &name, step.user); error != 0) {
    return error;
  }
  return MakeEntry(FUSE_SYMLINK, directory, Body().Name(name).Name(step.text), step.user);
}

int FuseTarget::Remove(const NodeRef& directory, const std::string& name, bool is_directory) {
  return client_.Call(is_directory ? FUSE_RMDIR : FUSE_UNLINK, IdOf(directory), Body().Name(name))
      .error;
}

int FuseTarget::Rename(const NodeRef& from, const std::string& name, const NodeRef& to,
                       const std::string& new_name, uint32_t flags) {
  // The guest's kernel looks at the flags and then both names up.
  constexpr uint32_t kExclusive = RENAME_NOREPLACE | RENAME_EXCHANGE;
  if ((flags & kExclusive) == kExclusive) {
    return EINVAL;
  }
  NodeRef node;
  if (const int error = LookUp(from, name, &node); error != 0) {
    return error;
  }
  if (const int error = LookUp(to, new_name, &node); error != 0 && error != ENOENT) {
    return error;
  }
  fuse_rename2_in in{};
  in.newdir = IdOf(to);
  in.flags = flags;
  return client_.Call(FUSE_RENAME2, IdOf(from), Body().Put(in).Name(name).Name(new_name)).error;
}

int FuseTarget::Link(const NodeRef& node, const NodeRef& directory, const std::string& name) {
  fuse_link_in in{};
  in.oldnodeid = IdOf(node);
  return MakeEntry(FUSE_LINK, directory, Body().Put(in).Name(name), {});
}

int FuseTarget::ReadLink(const NodeRef& node, std::string* out) {
  const Reply reply = client_.Call(FUSE_READLINK, IdOf(node), Body());
  *out = reply.payload;
  return reply.error;
}

int FuseTarget::SetAttr(const NodeRef& node, const fuse_setattr_in& in) {
  return client_.Call(FUSE_SETATTR, IdOf(node), Body().Put(in)).error;
}

int FuseTarget::Truncate(const NodeRef& node, uint64_t size) {
  fuse_setattr_in in{};
  in.valid = FATTR_SIZE;
  in.size = size;
  return SetAttr(node, in);
}

int FuseTarget::ChangeMode(const NodeRef& node, uint32_t mode) {
  fuse_setattr_in in{};
  in.valid = FATTR_MODE;
  in.mode = mode;
  return SetAttr(node, in);
}

int FuseTarget::ChangeOwner(const NodeRef& node, const User& owner) {
  fuse_setattr_in in{};
  in.valid = FATTR_UID | FATTR_GID;
  in.uid = owner.uid;
  in.gid = owner.gid;
  return SetAttr(node, in);
}

int FuseTarget::SetTimes(const NodeRef& node, const TimeValue& atime, const TimeValue& mtime) {
  fuse_setattr_in in{};
  if (atime.nanoseconds != UTIME_OMIT) {
    in.valid |= FATTR_ATIME;
    in.valid |= atime.nanoseconds == UTIME_NOW ? FATTR_ATIME_NOW : 0;
    in.atime = static_cast<uint64_t>(atime.seconds);
    in.atimensec = static_cast<uint32_t>(atime.nanoseconds);
  }
  if (mtime.nanoseconds != UTIME_OMIT) {
    in.valid |= FATTR_MTIME;
    in.valid |= mtime.nanoseconds == UTIME_NOW ? FATTR_MTIME_NOW : 0;
    in.mtime = static_cast<uint64_t>(mtime.seconds);
    in.mtimensec = static_cast<uint32_t>(mtime.nanoseconds);
  }
  return SetAttr(node, in);
}

int FuseTarget::SetXattr(const NodeRef& node, const std::string& name, const std::string& value,
                         uint32_t flags) {
  fuse_setxattr_in in{};
  in.size = static_cast<uint32_t>(value.size());
  in.flags = flags;
  // FUSE_SETXATTR_EXT comes with the ACLs.
  const std::string head(reinterpret_cast<const char*>(&in),
                         acls_ ? sizeof(in) : size_t{FUSE_COMPAT_SETXATTR_IN_SIZE});
  return client_.Call(FUSE_SETXATTR, IdOf(node), Body().Raw(head).Name(name).Raw(value)).error;
}

int FuseTarget::GetXattr(const NodeRef& node, const std::string& name, std::string* value) {
  fuse_getxattr_in in{};
  in.size = 1 << 16;
  const Reply reply = client_.Call(FUSE_GETXATTR, IdOf(node), Body().Put(in).Name(name), in.size);
  *value = reply.payload;
  return reply.error;
}

int FuseTarget::ListXattrs(const NodeRef& node, std::vector<std::string>* names) {
  fuse_getxattr_in in{};
  in.size = 1 << 16;
  const Reply reply = client_.Call(FUSE_LISTXATTR, IdOf(node), Body().Put(in), in.size);
  for (size_t at = 0; at < reply.payload.size();) {
    names->emplace_back(reply.payload.c_str() + at);
    at += names->back().size() + 1;
  }
  return reply.error;
}

int FuseTarget::RemoveXattr(const NodeRef& node, const std::string& name) {
  return client_.Call(FUSE_REMOVEXATTR, IdOf(node), Body().Name(name)).error;
}

int FuseTarget::List(const NodeRef& directory, size_t buffer, std::vector<DirectoryItem>* out) {
  // Both ways of listing: which one depends on the size only.
  const bool plus = (buffer & 0x5400U) != 0;
  for (const auto& entry : client_.ReadAll(IdOf(directory), plus, static_cast<uint32_t>(buffer))) {
    if (entry.entry.nodeid != 0) {
      Adopt(directory, entry.entry);
    }
    if (entry.name != "." && entry.name != "..") {
      out->push_back({entry.name, static_cast<uint8_t>(entry.type)});
    }
  }
  return 0;
}

int FuseTarget::GetFileSystem(const NodeRef& node, FileSystemInfo* out) {
  const Reply reply = client_.Call(FUSE_STATFS, IdOf(node), Body());
  const auto st = reply.As<fuse_statfs_out>().st;
  *out = {st.bsize, st.frsize, st.namelen, st.blocks, st.files};
  return reply.error;
}

}  // namespace wyvern::fs::differential
