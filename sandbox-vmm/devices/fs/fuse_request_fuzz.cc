// Sequences of FUSE requests against a server over a small directory: each is two little-endian
// lengths (request, reply space) and bytes. Small numbers of nodes and open files stand for what the
// sequence was given: 2 is its first node, 1 its first file, as in a server that has just started.
// Opcodes from 0x10000 on are what the host does meanwhile (fuzz_host.h).
// Not reached: what fails on the host only (calls that tmpfs never refuses, the end of memory or of
// descriptors), what tmpfs does not do (inode numbers that come again, O_DIRECT that minds lengths),
// a mount that appears within a share, what takes two threads at a time, requests longer than 64 KiB,
// more than 64 exports, paths too long to be told. Most of these are in fs_test.
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "base/check.h"
#include "fs/fuzz_host.h"

namespace wyvern::fs {
namespace {

FuzzHost& Host() {
  static FuzzHost host;
  return host;
}

FileServer& Server() {
  return Host().server();
}

// What the sequence was given so far.
std::vector<uint64_t> nodes_given;
std::vector<uint64_t> files_given;

// Where in a request (behind the header) numbers of open files and of nodes are.
struct Places {
  size_t file = std::string::npos;
  size_t other_file = std::string::npos;
  size_t node = std::string::npos;
};

Places PlacesOf(uint32_t opcode) {
  switch (opcode) {
    case FUSE_GETATTR:
    case FUSE_SETATTR:
    case kOpcodeStatx:
      return {8, std::string::npos, std::string::npos};
    case FUSE_READ:
    case FUSE_WRITE:
    case FUSE_RELEASE:
    case FUSE_FSYNC:
    case FUSE_FLUSH:
    case FUSE_READDIR:
    case FUSE_READDIRPLUS:
    case FUSE_RELEASEDIR:
    case FUSE_FSYNCDIR:
    case FUSE_GETLK:
    case FUSE_SETLK:
    case FUSE_SETLKW:
    case FUSE_FALLOCATE:
    case FUSE_LSEEK:
      return {0, std::string::npos, std::string::npos};
    case FUSE_COPY_FILE_RANGE:
      return {0, 24, 16};
    case FUSE_RENAME:
    case FUSE_RENAME2:
    case FUSE_LINK:
      return {std::string::npos, std::string::npos, 0};
    default:
      return {};
  }
}

void Replace(std::string& request, size_t at, const std::vector<uint64_t>& given, uint64_t first) {
  uint64_t number = 0;
  if (at > request.size() || request.size() - at < sizeof(number)) {
    return;
  }
  std::memcpy(&number, request.data() + at, sizeof(number));
  if (number >= first && number - first < given.size()) {
    number = given[number - first];
    std::memcpy(request.data() + at, &number, sizeof(number));
  }
}

// The header as it is, and the numbers in the request made those of this sequence.
fuse_in_header Prepare(std::string& request) {
  fuse_in_header header{};
  if (request.size() < sizeof(header)) {
    return header;
  }
  Replace(request, offsetof(fuse_in_header, nodeid), nodes_given, 2);
  std::memcpy(&header, request.data(), sizeof(header));
  const Places places = PlacesOf(header.opcode);
  const auto replace = [&](size_t at, const std::vector<uint64_t>& given, uint64_t first) {
    if (at != std::string::npos) {
      Replace(request, sizeof(header) + at, given, first);
    }
  };
  replace(places.file, files_given, 1);
  replace(places.other_file, files_given, 1);
  replace(places.node, nodes_given, 2);
  return header;
}

void Remember(uint32_t opcode, const std::string& payload) {
  const auto word = [&payload](size_t at) {
    uint64_t value = 0;
    if (payload.size() >= at + sizeof(value)) {
      std::memcpy(&value, payload.data() + at, sizeof(value));
    }
    return value;
  };
  switch (opcode) {
    case FUSE_LOOKUP:
    case FUSE_SYMLINK:
    case FUSE_MKNOD:
    case FUSE_MKDIR:
    case FUSE_LINK:
      nodes_given.push_back(word(0));
      break;
    case FUSE_CREATE:
    case FUSE_TMPFILE:
      nodes_given.push_back(word(0));
      files_given.push_back(word(sizeof(fuse_entry_out)));
      break;
    case FUSE_OPEN:
    case FUSE_OPENDIR:
      files_given.push_back(word(0));
      break;
    default:
      break;
  }
}

void Init();

void Call(std::string in, size_t room) {
  const fuse_in_header request = Prepare(in);
  if (request.opcode >= kFirstHostStep) {
    if (Host().Step(request) == FuzzHost::Session::kEnded) {
      nodes_given.clear();
      files_given.clear();
      Init();
    }
    return;
  }
  static Scratch scratch;
  std::string out(room, '\0');
  const iovec in_part{in.data(), in.size()};
  const iovec out_part{out.data(), out.size()};
  static uint64_t ticket = 0;
  LockWaits::Request wait;
  const std::optional<uint32_t> answer =
      Server().HandleOrWait(std::span(&in_part, 1), std::span(&out_part, 1), &scratch, &wait);
  if (!answer.has_value()) {
    WV_CHECK(wait.args.lk.type != F_UNLCK);  // giving up never waits
    Server().AddWait(++ticket, wait);
  }
  if (Server().waits_changed()) {
    for (const LockWaits::Ended& ended : Server().RetryWaits()) {
      WV_CHECK(ended.ticket <= ticket && ended.error >= 0 && ended.error != EAGAIN);
    }
  }
  const uint32_t written = answer.value_or(0);
  WV_CHECK(written <= room);
  if (written >= sizeof(fuse_out_header)) {
    fuse_out_header header{};
    std::memcpy(&header, out.data(), sizeof(header));
    WV_CHECK(header.len == written && header.error <= 0 && header.error > -4096);
    if (header.error == 0) {
      Remember(request.opcode, out.substr(sizeof(header), written - sizeof(header)));
    }
  }
}

void Init() {
  fuse_in_header header{};
  header.len = sizeof(header) + sizeof(fuse_init_in);
  header.opcode = FUSE_INIT;
  fuse_init_in in{};
  in.major = kFuseMajor;
  in.minor = kFuseMinor;
  in.flags = ~0U;
  in.flags2 = ~0U;
  Call(std::string(reinterpret_cast<const char*>(&header), sizeof(header)) +
           std::string(reinterpret_cast<const char*>(&in), sizeof(in)),
       256);
}

}  // namespace
}  // namespace wyvern::fs

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  wyvern::fs::nodes_given.clear();
  wyvern::fs::files_given.clear();
  wyvern::fs::Init();
  for (int calls = 0; size >= 4 && calls < 64; ++calls) {
    const size_t wanted = data[0] | (size_t{data[1]} << 8U);
    const size_t room = data[2] | (size_t{data[3]} << 8U);
    data += 4;
    size -= 4;
    const size_t length = wanted < size ? wanted : size;
    wyvern::fs::Call(std::string(reinterpret_cast<const char*>(data), length), room);
    data += length;
    size -= length;
  }
  wyvern::fs::Host().End();
  return 0;
}
