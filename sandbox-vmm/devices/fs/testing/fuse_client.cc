#include "fs/testing/fuse_client.h"

#include <fcntl.h>

namespace wyvern::fs::testing {

Reply FuseClient::Raw(std::string_view request, size_t reply_bytes) {
  std::string in(request);
  std::string out(reply_bytes, '\xee');
  // In three parts each, so that structures cross them.
  std::vector<iovec> in_parts;
  std::vector<iovec> out_parts;
  const auto split = [](std::string& bytes, std::vector<iovec>* parts) {
    const size_t third = bytes.size() / 3;
    parts->push_back({bytes.data(), third});
    parts->push_back({bytes.data() + third, third});
    parts->push_back({bytes.data() + 2 * third, bytes.size() - 2 * third});
  };
  split(in, &in_parts);
  split(out, &out_parts);
  const uint32_t written = carrier_(in_parts, out_parts);
  Reply reply;
  fuse_out_header header{};
  if (written >= sizeof(header)) {
    reply.answered = true;
    std::memcpy(&header, out.data(), sizeof(header));
    reply.error = -header.error;
    reply.payload = out.substr(sizeof(header), written - sizeof(header));
  }
  error_ = reply.error;
  return reply;
}

Reply FuseClient::Call(uint32_t opcode, uint64_t node, const Body& body, size_t room) {
  fuse_in_header header{};
  header.len = static_cast<uint32_t>(sizeof(header) + body.bytes().size());
  header.opcode = opcode;
  header.unique = ++unique_;
  header.nodeid = node;
  header.uid = uid;
  header.gid = gid;
  header.pid = 1;
  header.total_extlen = extension_words;
  return Raw(Body().Put(header).Raw(body.bytes()).bytes(), sizeof(fuse_out_header) + room);
}

Reply FuseClient::Init(uint64_t flags, uint32_t minor) {
  fuse_init_in in{};
  in.major = kFuseMajor;
  in.minor = minor;
  in.max_readahead = 128 << 10;
  in.flags = static_cast<uint32_t>(flags);
  in.flags2 = static_cast<uint32_t>(flags >> 32U);
  return Call(FUSE_INIT, 0, Body().Put(in));
}

fuse_entry_out FuseClient::LookupEntry(uint64_t parent, std::string_view name) {
  return Call(FUSE_LOOKUP, parent, Body().Name(name)).As<fuse_entry_out>();
}

uint64_t FuseClient::Lookup(uint64_t parent, std::string_view name) {
  return LookupEntry(parent, name).nodeid;
}

uint64_t FuseClient::Walk(std::string_view path) {
  uint64_t node = FUSE_ROOT_ID;
  while (!path.empty() && node != 0) {
    const size_t slash = path.find('/');
    node = Lookup(node, path.substr(0, slash));
    path = slash == std::string_view::npos ? std::string_view() : path.substr(slash + 1);
  }
  return node;
}

void FuseClient::Forget(uint64_t node, uint64_t count) {
  fuse_forget_in in{};
  in.nlookup = count;
  Call(FUSE_FORGET, node, Body().Put(in), 0);
}

fuse_attr FuseClient::GetAttr(uint64_t node) {
  return Call(FUSE_GETATTR, node, Body().Put(fuse_getattr_in{})).As<fuse_attr_out>().attr;
}

uint64_t FuseClient::Open(uint64_t node, uint32_t flags) {
  fuse_open_in in{};
  in.flags = flags;
  return Call(FUSE_OPEN, node, Body().Put(in)).As<fuse_open_out>().fh;
}

uint64_t FuseClient::Create(uint64_t parent, std::string_view name, uint32_t flags, uint32_t mode,
                            uint64_t* node) {
  fuse_create_in in{};
  in.flags = flags | O_CREAT;
  in.mode = mode;
  const Reply reply = Call(FUSE_CREATE, parent, Body().Put(in).Name(name));
  if (node != nullptr) {
    *node = reply.As<fuse_entry_out>().nodeid;
  }
  return reply.As<fuse_open_out>(sizeof(fuse_entry_out)).fh;
}

std::string FuseClient::Read(uint64_t node, uint64_t fh, uint64_t offset, uint32_t size) {
  fuse_read_in in{};
  in.fh = fh;
  in.offset = offset;
  in.size = size;
  return Call(FUSE_READ, node, Body().Put(in), size).payload;
}

uint32_t FuseClient::Write(uint64_t node, uint64_t fh, uint64_t offset, std::string_view data,
                           uint32_t file_flags, uint32_t write_flags) {
  fuse_write_in in{};
  in.fh = fh;
  in.offset = offset;
  in.size = static_cast<uint32_t>(data.size());
  in.flags = file_flags;
  in.write_flags = write_flags;
  return Call(FUSE_WRITE, node, Body().Put(in).Raw(data)).As<fuse_write_out>().size;
}

void FuseClient::Release(uint64_t node, uint64_t fh) {
  fuse_release_in in{};
  in.fh = fh;
  Call(FUSE_RELEASE, node, Body().Put(in));
}

uint64_t FuseClient::Mkdir(uint64_t parent, std::string_view name, uint32_t mode) {
  fuse_mkdir_in in{};
  in.mode = mode;
  return Call(FUSE_MKDIR, parent, Body().Put(in).Name(name)).As<fuse_entry_out>().nodeid;
}

int FuseClient::Unlink(uint64_t parent, std::string_view name) {
  return Call(FUSE_UNLINK, parent, Body().Name(name)).error;
}

std::vector<FuseClient::DirEntry> FuseClient::ReadAll(uint64_t node, bool plus, uint32_t size) {
  std::vector<DirEntry> entries;
  const uint64_t fh = Call(FUSE_OPENDIR, node, Body().Put(fuse_open_in{})).As<fuse_open_out>().fh;
  const size_t prefix = plus ? sizeof(fuse_entry_out) : 0;
  uint64_t offset = 0;
  for (;;) {
    fuse_read_in in{};
    in.fh = fh;
    in.offset = offset;
    in.size = size;
    const Reply reply = Call(plus ? FUSE_READDIRPLUS : FUSE_READDIR, node, Body().Put(in), size);
    if (reply.error != 0 || reply.payload.empty()) {
      break;
    }
    for (size_t at = 0; at + prefix + FUSE_NAME_OFFSET <= reply.payload.size();) {
      fuse_dirent dirent{};
      std::memcpy(&dirent, reply.payload.data() + at + prefix, FUSE_NAME_OFFSET);
      DirEntry entry{reply.payload.substr(at + prefix + FUSE_NAME_OFFSET, dirent.namelen),
                     dirent.ino,
                     dirent.off,
                     dirent.type,
                     {}};
      if (plus) {
        entry.entry = reply.As<fuse_entry_out>(at);
      }
      entries.push_back(entry);
      offset = dirent.off;
      at += prefix + FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + dirent.namelen);
    }
  }
  const int last = error_;
  fuse_release_in release{};
  release.fh = fh;
  Call(FUSE_RELEASEDIR, node, Body().Put(release));
  error_ = last;
  return entries;
}

}  // namespace wyvern::fs::testing
