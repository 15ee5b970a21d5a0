#include "fs/differential/fuse_file.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/file.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <limits>

#include "fs/differential/fuse_mapping.h"

namespace wyvern::fs::differential {

namespace {

using testing::Body;
using testing::Reply;

constexpr uint64_t kProcess = 0x7072;  // lock owner: the one process of the script
constexpr uint64_t kFirstFileOwner = uint64_t{1} << 32U;
constexpr uint64_t kLastOffset = std::numeric_limits<int64_t>::max();
constexpr size_t kDataBytes = 1 << 20;

// The pages of a guest: READ and WRITE move whole, aligned ones, as O_DIRECT on the host wants.
class Pages {
 public:
  Pages() : bytes_(static_cast<char*>(std::aligned_alloc(4096, kDataBytes))) {}

  ~Pages() { std::free(bytes_); }

  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;

  char* data() { return bytes_; }

 private:
  char* bytes_;
};

char* PageData() {
  static thread_local Pages pages;
  return pages.data();
}

// READ and WRITE with their data apart from the rest.
class Mover {
 public:
  explicit Mover(testing::FuseClient& client) : client_(client) {}

  int Read(uint64_t node, const fuse_read_in& in, std::string* out) {
    const std::string head = Request(FUSE_READ, node, Body().Put(in), 0);
    const int error = Exchange(head, 0, in.size);
    out->assign(PageData(), error == 0 ? reply_.len - sizeof(reply_) : 0);
    return error;
  }

  int Write(uint64_t node, const fuse_write_in& in, const std::string& data, size_t* written) {
    std::memcpy(PageData(), data.data(), data.size());
    const std::string head = Request(FUSE_WRITE, node, Body().Put(in), data.size());
    const int error = Exchange(head, data.size(), 0);
    *written = error == 0 ? write_.size : 0;
    return error;
  }

 private:
  static std::string Request(uint32_t opcode, uint64_t node, const Body& body, size_t data) {
    fuse_in_header header{};
    header.len = static_cast<uint32_t>(sizeof(header) + body.bytes().size() + data);
    header.opcode = opcode;
    header.nodeid = node;
    header.unique = 1;
    return Body().Put(header).Raw(body.bytes()).bytes();
  }

  int Exchange(std::string head, size_t data_in, size_t data_out) {
    const std::array<iovec, 2> in = {iovec{head.data(), head.size()}, iovec{PageData(), data_in}};
    const std::array<iovec, 2> out = {
        iovec{&reply_, sizeof(reply_)},
        data_out != 0 ? iovec{PageData(), data_out} : iovec{&write_, sizeof(write_)}};
    const uint32_t bytes = client_.Carry(in, out);
    return bytes < sizeof(reply_) ? EIO : -reply_.error;
  }

  testing::FuseClient& client_;
  fuse_out_header reply_{};
  fuse_write_out write_{};
};

}  // namespace

Attributes ToAttributes(const fuse_attr& attr) {
  return {attr.mode,
          attr.nlink,
          attr.uid,
          attr.gid,
          attr.blksize,
          attr.size,
          attr.ino,
          (attr.rdev & 0xfff00U) >> 8U,
          (attr.rdev & 0xffU) | ((attr.rdev >> 12U) & 0xfff00U),
          {static_cast<int64_t>(attr.atime), attr.atimensec},
          {static_cast<int64_t>(attr.mtime), attr.mtimensec}};
}

FuseFile::~FuseFile() {
  if ((open_.open_flags & FOPEN_NOFLUSH) == 0) {
    fuse_flush_in flush{};
    flush.fh = open_.fh;
    flush.lock_owner = kProcess;
    client_.Call(FUSE_FLUSH, id(), Body().Put(flush));
  }
  fuse_release_in release{};
  release.fh = open_.fh;
  release.release_flags = flocked_ ? FUSE_RELEASE_FLOCK_UNLOCK : 0;
  client_.Call(FUSE_RELEASE, id(), Body().Put(release));
}

int FuseFile::Read(uint64_t offset, size_t length, std::string* out) {
  return Readable() ? ReadPages(offset, length, out) : EBADF;
}

int FuseFile::ReadPages(uint64_t offset, size_t length, std::string* out) {
  fuse_read_in in{};
  in.fh = open_.fh;
  in.offset = offset;
  in.size = static_cast<uint32_t>(length);
  return Mover(client_).Read(id(), in, out);
}

int FuseFile::Write(uint64_t offset, const std::string& data, size_t* written) {
  if (!Writable()) {
    return EBADF;
  }
  fuse_write_in in{};
  in.fh = open_.fh;
  in.offset = offset;
  in.size = static_cast<uint32_t>(data.size());
  in.flags = flags_;
  return Mover(client_).Write(id(), in, data, written);
}

int FuseFile::WritePages(uint64_t offset, const std::string& data, size_t* written) {
  fuse_write_in in{};
  in.fh = open_.fh;
  in.offset = offset;
  in.size = static_cast<uint32_t>(data.size());
  in.write_flags = FUSE_WRITE_CACHE;
  return Mover(client_).Write(id(), in, data, written);
}

int FuseFile::Truncate(uint64_t size) {
  if (!Writable()) {
    return EINVAL;
  }
  fuse_setattr_in in{};
  in.valid = FATTR_SIZE | FATTR_FH;
  in.fh = open_.fh;
  in.size = size;
  return client_.Call(FUSE_SETATTR, id(), Body().Put(in)).error;
}

int FuseFile::Allocate(uint32_t mode, uint64_t offset, uint64_t length) {
  if (!Writable()) {
    // The guest's kernel looks first at the mode: a hole leaves the size as it is, and is no zeros.
    const bool hole = (mode & FALLOC_FL_PUNCH_HOLE) != 0;
    const bool alone = (mode & (FALLOC_FL_KEEP_SIZE | FALLOC_FL_ZERO_RANGE)) == FALLOC_FL_KEEP_SIZE;
    return hole && !alone ? EOPNOTSUPP : EBADF;
  }
  fuse_fallocate_in in{};
  in.fh = open_.fh;
  in.mode = mode;
  in.offset = offset;
  in.length = length;
  return client_.Call(FUSE_FALLOCATE, id(), Body().Put(in)).error;
}

int FuseFile::Seek(uint32_t whence, uint64_t offset, uint64_t* out) {
  fuse_lseek_in in{};
  in.fh = open_.fh;
  in.whence = whence;
  in.offset = offset;
  const Reply reply = client_.Call(FUSE_LSEEK, id(), Body().Put(in));
  *out = reply.As<fuse_lseek_out>().offset;
  return reply.error;
}

int FuseFile::CopyTo(File& to, uint64_t offset, uint64_t to_offset, uint64_t length,
                     uint64_t* done) {
  auto& target = static_cast<FuseFile&>(to);
  if (!Readable() || !target.Writable() || (target.flags_ & O_APPEND) != 0) {
    return EBADF;
  }
  fuse_copy_file_range_in in{};
  in.fh_in = open_.fh;
  in.off_in = offset;
  in.nodeid_out = target.id();
  in.fh_out = target.open_.fh;
  in.off_out = to_offset;
  in.len = length;
  const Reply reply = client_.Call(FUSE_COPY_FILE_RANGE, id(), Body().Put(in));
  *done = reply.As<fuse_write_out>().size;
  return reply.error;
}

int FuseFile::Sync() {
  fuse_fsync_in in{};
  in.fh = open_.fh;
  return client_.Call(FUSE_FSYNC, id(), Body().Put(in)).error;
}

int FuseFile::SyncData() {
  fuse_fsync_in in{};
  in.fh = open_.fh;
  in.fsync_flags = FUSE_FSYNC_FDATASYNC;
  return client_.Call(FUSE_FSYNC, id(), Body().Put(in)).error;
}

int FuseFile::Map(const MapRange& range, MappingRef* out) {
  if (!Readable() || (range.shared && range.writable && !Writable())) {
    return EACCES;
  }
  *out = std::make_unique<FuseMapping>(*this, range);
  return 0;
}

int FuseFile::GetAttributes(Attributes* out) {
  fuse_getattr_in in{};
  in.getattr_flags = FUSE_GETATTR_FH;
  in.fh = open_.fh;
  const Reply reply = client_.Call(FUSE_GETATTR, id(), Body().Put(in));
  *out = ToAttributes(reply.As<fuse_attr_out>().attr);
  return reply.error;
}

int FuseFile::SetLock(const LockRange& range) {
  if ((range.type == F_RDLCK && !Readable()) || (range.type == F_WRLCK && !Writable())) {
    return EBADF;
  }
  return client_.Call(FUSE_SETLK, id(), Body().Put(ToLock(range))).error;
}

int FuseFile::GetLock(LockRange* range) {
  const Reply reply = client_.Call(FUSE_GETLK, id(), Body().Put(ToLock(*range)));
  const fuse_file_lock lock = reply.As<fuse_lk_out>().lk;
  range->type = lock.type;
  if (lock.type != F_UNLCK) {
    range->start = lock.start;
    range->length = lock.end == kLastOffset ? 0 : lock.end - lock.start + 1;
  }
  return reply.error;
}

int FuseFile::Flock(uint32_t operation) {
  fuse_lk_in in{};
  in.fh = open_.fh;
  in.owner = open_.fh;
  in.lk_flags = FUSE_LK_FLOCK;
  in.lk.end = kLastOffset;
  in.lk.type = F_UNLCK;
  if (operation != LOCK_UN) {
    in.lk.type = operation == LOCK_SH ? F_RDLCK : F_WRLCK;
  }
  flocked_ = true;
  return client_.Call(FUSE_SETLK, id(), Body().Put(in)).error;
}

bool FuseFile::Readable() const {
  return (flags_ & O_ACCMODE) != O_WRONLY;
}

bool FuseFile::Writable() const {
  return (flags_ & O_ACCMODE) != O_RDONLY;
}

fuse_lk_in FuseFile::ToLock(const LockRange& range) const {
  fuse_lk_in in{};
  in.fh = open_.fh;
  in.owner = range.of_the_file ? kFirstFileOwner + open_.fh : kProcess;
  in.lk.type = range.type;
  in.lk.start = range.start;
  in.lk.end = range.length == 0 ? kLastOffset : range.start + range.length - 1;
  return in;
}

}  // namespace wyvern::fs::differential
