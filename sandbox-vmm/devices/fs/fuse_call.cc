#include "fs/fuse_call.h"

#include <algorithm>
#include <cerrno>
#include <limits>

namespace wyvern::fs {

tl::unexpected<Errno> LastErrno() {
  const int number = errno;
  return FsError(number == EMFILE ? ENFILE : number);
}

size_t IovecLength(std::span<const iovec> parts) {
  size_t total = 0;
  for (const iovec& part : parts) {
    if (__builtin_add_overflow(total, part.iov_len, &total)) {
      return std::numeric_limits<size_t>::max();
    }
  }
  return total;
}

size_t SliceIovecs(std::span<const iovec> from, size_t offset, size_t length,
                   std::vector<iovec>* out) {
  size_t done = 0;
  for (const iovec& part : from) {
    if (done == length) {
      break;
    }
    if (offset >= part.iov_len) {
      offset -= part.iov_len;
      continue;
    }
    const size_t take = std::min(part.iov_len - offset, length - done);
    out->push_back({static_cast<std::byte*>(part.iov_base) + offset, take});
    done += take;
    offset = 0;
  }
  return done;
}

namespace {

// Calls move(part address, progress, bytes) over [offset, offset + length); false if the list is
// shorter.
template <typename Move>
bool WalkIovecs(std::span<const iovec> parts, size_t offset, size_t length, Move move) {
  size_t done = 0;
  for (const iovec& part : parts) {
    if (done == length) {
      break;
    }
    if (offset >= part.iov_len) {
      offset -= part.iov_len;
      continue;
    }
    const size_t take = std::min(part.iov_len - offset, length - done);
    move(static_cast<std::byte*>(part.iov_base) + offset, done, take);
    done += take;
    offset = 0;
  }
  return done == length;
}

}  // namespace

bool CopyFromIovecs(std::span<const iovec> from, size_t offset, std::span<std::byte> to) {
  return WalkIovecs(from, offset, to.size(), [&](std::byte* part, size_t at, size_t bytes) {
    std::memcpy(to.data() + at, part, bytes);
  });
}

bool CopyToIovecs(std::span<const iovec> to, size_t offset, std::span<const std::byte> from) {
  return WalkIovecs(to, offset, from.size(), [&](std::byte* part, size_t at, size_t bytes) {
    std::memcpy(part, from.data() + at, bytes);
  });
}

FsResult<FuseCall> FuseCall::Parse(std::span<const iovec> in, std::span<const iovec> out,
                                   Scratch* scratch) {
  FuseCall call;
  call.in_ = in;
  call.out_ = out;
  call.out_length_ = IovecLength(out);
  call.scratch_ = scratch;
  if (!CopyFromIovecs(in, 0, std::as_writable_bytes(std::span(&call.header_, 1)))) {
    return FsError(EINVAL);
  }
  // A length outside the chain leaves a call without arguments: the operation then fails with
  // EINVAL, which can still be told.
  if (call.header_.len >= sizeof(fuse_in_header) && call.header_.len <= IovecLength(in)) {
    call.in_length_ = call.header_.len;
  } else {
    call.in_length_ = sizeof(fuse_in_header);
  }
  return call;
}

FsResult<> FuseCall::LoadArguments() {
  const size_t bytes = in_length_ - sizeof(fuse_in_header);
  if (bytes > kMaxArgumentBytes) {
    return FsError(E2BIG);
  }
  if (scratch_->arguments.size() < bytes) {
    scratch_->arguments.resize(bytes);
  }
  CopyFromIovecs(in_, sizeof(fuse_in_header), std::span(scratch_->arguments).first(bytes));
  const size_t extensions = size_t{header_.total_extlen} * 8;
  if (extensions > bytes) {
    return FsError(EINVAL);
  }
  position_ = 0;
  argument_end_ = bytes - extensions;
  return {};
}

std::span<const std::byte> FuseCall::remaining() const {
  return std::span(scratch_->arguments).first(argument_end_).subspan(position_);
}

FsResult<const char*> FuseCall::TakeString(size_t limit) {
  const auto rest = remaining();
  const auto* start = reinterpret_cast<const char*>(rest.data());
  const void* end = rest.empty() ? nullptr : std::memchr(start, 0, rest.size());
  if (end == nullptr) {
    return FsError(EINVAL);
  }
  const auto length = static_cast<size_t>(static_cast<const char*>(end) - start);
  if (length == 0) {
    return FsError(EINVAL);
  }
  if (length > limit) {
    return FsError(ENAMETOOLONG);
  }
  position_ += length + 1;
  return start;
}

FsResult<const char*> FuseCall::TakeName() {
  FS_TRY(const char* name, TakeString(NAME_MAX));
  const std::string_view view(name);
  if (view == "." || view == ".." || view.find('/') != std::string_view::npos) {
    return FsError(EINVAL);
  }
  return name;
}

FsResult<std::span<const std::byte>> FuseCall::TakeBytes(size_t size) {
  if (remaining().size() < size) {
    return FsError(EINVAL);
  }
  const auto bytes = remaining().first(size);
  position_ += size;
  return bytes;
}

FsResult<FuseCall::Groups> FuseCall::FindGroups() const {
  Groups groups;
  const size_t total = size_t{header_.total_extlen} * 8;
  std::span<const std::byte> rest = std::span(scratch_->arguments).subspan(argument_end_, total);
  while (!rest.empty()) {
    ExtensionHeader extension{};
    if (rest.size() < sizeof(extension)) {
      return FsError(EINVAL);
    }
    std::memcpy(&extension, rest.data(), sizeof(extension));
    if (extension.size < sizeof(extension) || extension.size > rest.size()) {
      return FsError(EINVAL);
    }
    if (extension.type == kExtensionGroups) {
      // The kernel sends one group at most: the parent directory's, if the caller is a member of
      // it.
      uint32_t words[2] = {0, 0};
      if (extension.size < sizeof(extension) + sizeof(words)) {
        return FsError(EINVAL);
      }
      std::memcpy(words, rest.data() + sizeof(extension), sizeof(words));
      if (words[0] != 1 || groups.present) {
        return FsError(EINVAL);
      }
      groups = {true, words[1]};
    }
    rest = rest.subspan(extension.size);
  }
  return groups;
}

FsResult<fuse_write_in> FuseCall::LoadWrite() {
  fuse_write_in write{};
  if (in_length_ < sizeof(fuse_in_header) + sizeof(write) ||
      !CopyFromIovecs(in_, sizeof(fuse_in_header), std::as_writable_bytes(std::span(&write, 1)))) {
    return FsError(EINVAL);
  }
  if (write.size > kMaxIoBytes) {
    return FsError(EINVAL);
  }
  FS_TRY_VOID(MapInput(sizeof(fuse_in_header) + sizeof(write), write.size));
  return write;
}

FsResult<> FuseCall::MapInput(size_t offset, size_t size) {
  if (offset > in_length_ || size > in_length_ - offset) {
    return FsError(EINVAL);
  }
  scratch_->data.clear();
  SliceIovecs(in_, offset, size, &scratch_->data);
  return {};
}

size_t FuseCall::MapOutput(size_t size) {
  scratch_->data.clear();
  return SliceIovecs(out_, sizeof(fuse_out_header), std::min(size, reply_capacity()),
                     &scratch_->data);
}

FsResult<size_t> FuseCall::ReplyBytes(std::span<const std::byte> payload) {
  if (payload.size() > reply_capacity() || !CopyToIovecs(out_, sizeof(fuse_out_header), payload)) {
    return FsError(EIO);
  }
  return payload.size();
}

namespace {

uint32_t WriteHeader(std::span<const iovec> to, uint64_t unique, int error, size_t payload) {
  fuse_out_header out{};
  out.unique = unique;
  out.error = -error;
  out.len = static_cast<uint32_t>(sizeof(out) + payload);
  return CopyToIovecs(to, 0, std::as_bytes(std::span(&out, 1))) ? out.len : 0;
}

}  // namespace

uint32_t FuseCall::Finish(const FsResult<size_t>& result) {
  return result ? WriteHeader(out_, header_.unique, 0, *result)
                : WriteHeader(out_, header_.unique, result.error().value, 0);
}

uint32_t WriteAnswer(std::span<const iovec> out, uint64_t unique, int error) {
  return WriteHeader(out, unique, error, 0);
}

}  // namespace wyvern::fs
