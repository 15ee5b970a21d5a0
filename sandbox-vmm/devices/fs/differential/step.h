// fs/differential/step.h — one operation of a script, and the seeded generator of scripts.
// Shape:   a step depends on the seed and its number only, never on what came out of earlier ones:
//          every prefix of a script is a script.
// Units:   offsets and lengths in bytes; times in seconds and nanoseconds.
// Threads: one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace wyvern::fs::differential {

enum class Op : uint8_t {
  kOpen,
  kClose,
  kRead,
  kWrite,
  kTruncate,
  kTruncateFile,
  kAllocate,
  kSeek,
  kMap,
  kCopy,
  kSync,
  kTmpFile,
  kLinkFile,
  kMakeDirectory,
  kRemoveDirectory,
  kUnlink,
  kRename,
  kLink,
  kSymlink,
  kReadLink,
  kMakeNode,
  kChmod,
  kChown,
  kTimes,
  kSetXattr,
  kGetXattr,
  kListXattr,
  kRemoveXattr,
  kStat,
  kStatFile,
  kList,
  kStatFs,
  kLock,
  kGetLock,
  kFlock,
  kCount
};

const char* OpName(Op op);

// Who makes something; everything else is root's.
struct User {
  uint32_t uid = 0;
  uint32_t gid = 0;
};

struct TimeValue {
  int64_t seconds = 0;
  int64_t nanoseconds = 0;  // or UTIME_NOW, UTIME_OMIT
};

// Which fields count depends on the operation.
struct Step {
  Op op = Op::kStat;
  std::vector<std::string> path;   // names from the root; the last is the operation's own
  std::vector<std::string> other;  // of RENAME and LINK: the new name
  unsigned slot = 0;               // of an open file
  unsigned other_slot = 0;
  uint64_t offset = 0;
  uint64_t other_offset = 0;
  uint64_t length = 0;
  uint32_t flags = 0;  // of the system call
  uint32_t mode = 0;
  uint32_t umask = 0;  // of who makes it
  uint32_t major = 0;
  uint32_t minor = 0;
  User user;  // who makes it; of CHOWN: the new owner
  TimeValue atime;
  TimeValue mtime;
  std::string text;   // link target, name of an xattr
  uint64_t data = 0;  // seed of the bytes written
};

inline constexpr unsigned kSlots = 4;

// Step::flags of kMap: what is done with the mapping, in this order, after a look at it.
inline constexpr uint32_t kMapShared = 1;     // else private
inline constexpr uint32_t kMapWritable = 2;   // and is written to
inline constexpr uint32_t kMapFileWrite = 4;  // the file is written to while it is mapped
inline constexpr uint32_t kMapTruncate = 8;   // and gets another size, after the mapping's write
inline constexpr uint32_t kMapSync = 16;

// splitmix64: the same on every machine.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t Next();

  // 0 … bound - 1.
  uint64_t Below(uint64_t bound) { return Next() % bound; }

  bool OneIn(uint64_t chances) { return Below(chances) == 0; }

 private:
  uint64_t state_;
};

// A script of an odd seed maps files and never asks for holes, one of an even seed the other way round
// (README.md).
Step MakeStep(uint64_t seed, uint64_t number);
std::vector<Step> MakeScript(uint64_t seed, uint64_t count);

// `length` bytes that depend on the seed.
std::string MakeBytes(uint64_t seed, size_t length);

// Readable, on one line; bytes that are not printable as \xNN.
std::string Escape(const std::string& bytes);
std::string Join(const std::vector<std::string>& path);
std::string Describe(const Step& step);
// 64 bits, as FNV-1a but by words.
uint64_t HashOf(const std::string& bytes);

}  // namespace wyvern::fs::differential
