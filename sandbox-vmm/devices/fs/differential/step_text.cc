// A step as text; hashes of what it gave.
#include <fmt/format.h>

#include <cstring>
#include <iterator>

#include "fs/differential/step.h"

namespace wyvern::fs::differential {

const char* OpName(Op op) {
  constexpr const char* kNames[] = {
      "open",  "close",  "read",    "write",    "truncate", "ftruncate", "fallocate",
      "lseek", "mmap",   "copy",    "fsync",    "tmpfile",  "flink",     "mkdir",
      "rmdir", "unlink", "rename",  "link",     "symlink",  "readlink",  "mknod",
      "chmod", "chown",  "utimens", "setxattr", "getxattr", "listxattr", "removexattr",
      "stat",  "fstat",  "readdir", "statfs",   "lock",     "getlock",   "flock"};
  static_assert(std::size(kNames) == static_cast<size_t>(Op::kCount));
  return kNames[static_cast<size_t>(op)];
}

std::string Escape(const std::string& bytes) {
  std::string out;
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte > ' ' && byte < 0x7f && byte != '\\') {
      out.push_back(c);
    } else {
      fmt::format_to(std::back_inserter(out), "\\x{:02x}", byte);
    }
  }
  return out;
}

std::string Join(const std::vector<std::string>& path) {
  std::string out;
  for (const std::string& name : path) {
    // The long ones would hide the rest.
    out += "/" + (name.size() > 16 ? fmt::format("{}*{}", name[0], name.size()) : Escape(name));
  }
  return out;
}

std::string Describe(const Step& step) {
  std::string out = fmt::format("{} slot={} path={}", OpName(step.op), step.slot, Join(step.path));
  const auto add = [&out](const char* name, uint64_t value) {
    if (value != 0) {
      fmt::format_to(std::back_inserter(out), " {}={:#x}", name, value);
    }
  };
  if (!step.other.empty()) {
    out += " to=" + Join(step.other);
  }
  add("slot2", step.other_slot);
  add("offset", step.offset);
  add("offset2", step.other_offset);
  add("length", step.length);
  add("flags", step.flags);
  add("mode", step.mode);
  add("umask", step.umask);
  add("major", step.major);
  add("minor", step.minor);
  add("uid", step.user.uid);
  add("gid", step.user.gid);
  if (!step.text.empty()) {
    out += " text=" + Escape(step.text);
  }
  return out;
}

uint64_t HashOf(const std::string& bytes) {
  constexpr uint64_t kPrime = 0x100000001b3ULL;
  uint64_t hash = 0xcbf29ce484222325ULL ^ bytes.size();
  size_t at = 0;
  for (; at + sizeof(uint64_t) <= bytes.size(); at += sizeof(uint64_t)) {
    uint64_t word = 0;
    std::memcpy(&word, bytes.data() + at, sizeof(word));
    hash = (hash ^ word) * kPrime;
    hash ^= hash >> 29U;
  }
  for (; at < bytes.size(); ++at) {
    hash = (hash ^ static_cast<unsigned char>(bytes[at])) * kPrime;
  }
  return hash;
}

}  // namespace wyvern::fs::differential
