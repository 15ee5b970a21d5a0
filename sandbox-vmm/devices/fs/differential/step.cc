#include "fs/differential/step.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <array>
#include <iterator>

namespace wyvern::fs::differential {

namespace {

constexpr uint64_t kGoldenRatio = 0x9e3779b97f4a7c15ULL;

// How often an operation comes, relative to the others.
struct Share {
  Op op;
  unsigned weight;
};

constexpr std::array kShares = {Share{Op::kOpen, 12},
                                Share{Op::kClose, 3},
                                Share{Op::kRead, 8},
                                Share{Op::kWrite, 10},
                                Share{Op::kTruncate, 2},
                                Share{Op::kTruncateFile, 2},
                                Share{Op::kAllocate, 3},
                                Share{Op::kSeek, 2},
                                Share{Op::kCopy, 2},
                                Share{Op::kSync, 1},
                                Share{Op::kTmpFile, 1},
                                Share{Op::kLinkFile, 1},
                                Share{Op::kMakeDirectory, 5},
                                Share{Op::kRemoveDirectory, 2},
                                Share{Op::kUnlink, 5},
                                Share{Op::kRename, 7},
                                Share{Op::kLink, 3},
                                Share{Op::kSymlink, 2},
                                Share{Op::kReadLink, 1},
                                Share{Op::kMakeNode, 3},
                                Share{Op::kChmod, 3},
                                Share{Op::kChown, 2},
                                Share{Op::kTimes, 3},
                                Share{Op::kSetXattr, 5},
                                Share{Op::kGetXattr, 2},
                                Share{Op::kListXattr, 1},
                                Share{Op::kRemoveXattr, 1},
                                Share{Op::kStat, 8},
                                Share{Op::kStatFile, 2},
                                Share{Op::kList, 2},
                                Share{Op::kStatFs, 1},
                                Share{Op::kLock, 4},
                                Share{Op::kGetLock, 2},
                                Share{Op::kFlock, 2},
                                Share{Op::kMap, 2}};

constexpr unsigned kAllShares = [] {
  unsigned total = 0;
  for (const Share& share : kShares) {
    total += share.weight;
  }
  return total;
}();

Op PickOp(Random& random) {
  auto left = static_cast<unsigned>(random.Below(kAllShares));
  for (const Share& share : kShares) {
    if (left < share.weight) {
      return share.op;
    }
    left -= share.weight;
  }
  return Op::kStat;
}

// Names that mostly stand for directories: a path goes through these.
std::string PickDirectoryName(Random& random) {
  return std::string(1, static_cast<char>('A' + random.Below(4)));
}

// Few names, so that operations meet; among them every byte but NUL and the slash, and the longest
// name and one that is too long. Never "." and "..": those are the guest kernel's.
std::string PickName(Random& random) {
  const uint64_t which = random.Below(100);
  if (which < 70) {
    return std::string(1, static_cast<char>('e' + random.Below(6)));
  }
  if (which < 85) {
    return PickDirectoryName(random);
  }
  if (which < 98) {
    // 32 names of 8 bytes: together all 256 but the two.
    const uint64_t group = random.Below(32);
    std::string name;
    for (uint64_t i = 0; i < 8; ++i) {
      const auto byte = static_cast<char>(group * 8 + i);
      name.push_back(byte == '\0' || byte == '/' ? 'Z' : byte);
    }
    return name;
  }
  return std::string(which < 99 ? 255 : 256, static_cast<char>('p' + random.Below(2)));
}

std::vector<std::string> PickPath(Random& random) {
  const uint64_t chance = random.Below(10);
  const size_t parents = chance < 5 ? 0 : chance < 9 ? 1 : 2;
  std::vector<std::string> path;
  for (size_t i = 0; i < parents; ++i) {
    path.push_back(random.OneIn(20) ? PickName(random) : PickDirectoryName(random));
  }
  path.push_back(PickName(random));
  return path;
}

uint64_t PickOffset(Random& random) {
  switch (random.Below(8)) {
    case 0:
      return 0;
    case 1:
      return random.Below(1 << 21);  // far behind the end: a hole
    case 2:
      return random.Below(256) * 4096;
    default:
      return random.Below(1 << 16);
  }
}

uint64_t PickLength(Random& random) {
  switch (random.Below(8)) {
    case 0:
      return 1 + random.Below(1 << 17);
    case 1:
      return 4096;
    default:
      return 1 + random.Below(1 << 12);
  }
}

// No sticky bit: in a sticky directory the guest's kernel looks after files of others
// (fs.protected_regular), and it is not here.
uint32_t PickMode(Random& random) {
  constexpr uint32_t kModes[] = {0644, 0755, 0777, 0600, 0000, 02755, 04755, 06711, 02777, 0440};
  return kModes[random.Below(std::size(kModes))];
}

User PickUser(Random& random) {
  constexpr User kUsers[] = {{0, 0}, {0, 0}, {0, 0}, {1000, 1000}, {1000, 50}, {2000, 1000}};
  return kUsers[random.Below(std::size(kUsers))];
}

uint32_t PickOpenFlags(Random& random) {
  constexpr uint32_t kAccess[] = {O_RDONLY, O_RDWR, O_RDWR, O_WRONLY};
  uint32_t flags = kAccess[random.Below(std::size(kAccess))];
  flags |= random.OneIn(4) ? 0 : O_CREAT;
  flags |= random.OneIn(8) ? O_EXCL : 0;
  flags |= random.OneIn(8) ? O_TRUNC : 0;
  flags |= random.OneIn(6) ? O_APPEND : 0;
  flags |= random.OneIn(12) ? O_DIRECT : 0;
  return flags;
}

// Before 2001, which no clock of ours says: a time that was set is told from one that passed.
TimeValue PickTime(Random& random) {
  switch (random.Below(6)) {
    case 0:
      return {0, UTIME_NOW};
    case 1:
      return {0, UTIME_OMIT};
    default:
      return {static_cast<int64_t>(random.Below(1'000'000'000)),
              static_cast<int64_t>(random.Below(1'000'000'000))};
  }
}

uint32_t PickUmask(Random& random) {
  constexpr uint32_t kMasks[] = {0, 0, 022, 027, 077};
  return kMasks[random.Below(std::size(kMasks))];
}

std::string PickXattr(Random& random) {
  constexpr const char* kNames[] = {"user.a",
                                    "user.b",
                                    "user.long-name-of-an-attribute",
                                    "trusted.c",
                                    "bogus.d",
                                    "system.posix_acl_access",
                                    "system.posix_acl_access",
                                    "system.posix_acl_default",
                                    "system.posix_acl_default"};
  return kNames[random.Below(std::size(kNames))];
}

void FillOpen(Random& random, Step* step) {
  step->slot = static_cast<unsigned>(random.Below(kSlots));
  step->flags = PickOpenFlags(random);
  step->mode = PickMode(random);
  step->umask = PickUmask(random);
  step->user = PickUser(random);
}

void FillNode(Random& random, Step* step) {
  constexpr uint32_t kTypes[] = {S_IFREG, S_IFIFO, S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK};
  step->mode = kTypes[random.Below(std::size(kTypes))] | PickMode(random);
  step->umask = PickUmask(random);
  if (S_ISCHR(step->mode) || S_ISBLK(step->mode)) {
    step->major = static_cast<uint32_t>(random.Below(300));
    step->minor = static_cast<uint32_t>(random.Below(100'000));
  } else {
    step->user = PickUser(random);
  }
}

void FillRange(Random& random, Step* step) {
  constexpr uint32_t kModes[] = {0,
                                 FALLOC_FL_KEEP_SIZE,
                                 FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                 FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                 FALLOC_FL_ZERO_RANGE,
                                 FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
                                 FALLOC_FL_PUNCH_HOLE,
                                 FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE,
                                 FALLOC_FL_COLLAPSE_RANGE,
                                 FALLOC_FL_INSERT_RANGE,
                                 FALLOC_FL_UNSHARE_RANGE};
  step->offset = PickOffset(random);
  step->length = PickLength(random);
  switch (step->op) {
    case Op::kAllocate:
      step->flags = kModes[random.Below(std::size(kModes))];
      if ((step->flags & (FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_INSERT_RANGE)) != 0) {
        step->offset &= ~uint64_t{4095};  // else every file system refuses
        step->length = (step->length + 4095) & ~uint64_t{4095};
      }
      break;
    case Op::kSeek:
      step->flags = random.OneIn(2) ? SEEK_DATA : SEEK_HOLE;
      break;
    case Op::kCopy:
      step->other_slot = static_cast<unsigned>(random.Below(kSlots));
      step->other_offset = PickOffset(random);
      break;
    default:
      step->data = random.Next();
  }
}

void FillMap(Random& random, Step* step) {
  step->offset = PickOffset(random);
  step->length = PickLength(random);
  step->flags = static_cast<uint32_t>(random.Below(uint64_t{2} * kMapSync));
  step->other_offset = step->offset + random.Below(2 * step->length);  // the file's size then
  step->data = random.Next();
}

void FillLock(Random& random, Step* step) {
  constexpr uint32_t kTypes[] = {F_RDLCK, F_WRLCK, F_UNLCK};
  constexpr uint32_t kFlocks[] = {LOCK_SH, LOCK_EX, LOCK_UN};
  step->flags = step->op == Op::kFlock ? kFlocks[random.Below(3)] : kTypes[random.Below(3)];
  if (step->op == Op::kGetLock && step->flags == F_UNLCK) {
    step->flags = F_WRLCK;
  }
  step->mode = static_cast<uint32_t>(random.Below(2));  // 0: the process owns it, 1: the open file
  step->offset = random.Below(100);
  step->length = random.OneIn(6) ? 0 : 1 + random.Below(50);  // 0: to the end
}

void FillXattr(Random& random, Step* step) {
  constexpr uint32_t kFlags[] = {0, 0, XATTR_CREATE, XATTR_REPLACE};
  step->text = PickXattr(random);
  step->flags = kFlags[random.Below(std::size(kFlags))];
  step->length = random.Below(300);
  step->data = random.Next();
}

}  // namespace

uint64_t Random::Next() {
  state_ += kGoldenRatio;
  uint64_t z = state_;
  z = (z ^ (z >> 30U)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27U)) * 0x94d049bb133111ebULL;
  return z ^ (z >> 31U);
}

Step MakeStep(uint64_t seed, uint64_t number) {
  Random random(seed ^ (number * kGoldenRatio + 1));
  (void)random.Next();
  Step step;
  step.op = PickOp(random);
  if (step.op == Op::kSeek || step.op == Op::kMap) {
    step.op = seed % 2 == 0 ? Op::kSeek : Op::kMap;
  }
  step.path = PickPath(random);
  step.slot = static_cast<unsigned>(random.Below(kSlots));
  switch (step.op) {
    case Op::kOpen:
    case Op::kTmpFile:
      FillOpen(random, &step);
      break;
    case Op::kRead:
    case Op::kWrite:
    case Op::kAllocate:
    case Op::kSeek:
    case Op::kCopy:
    case Op::kTruncate:
    case Op::kTruncateFile:
      FillRange(random, &step);
      break;
    case Op::kMap:
      FillMap(random, &step);
      break;
    case Op::kMakeDirectory:
      if (!random.OneIn(4)) {
        step.path.back() = PickDirectoryName(random);
      }
      step.mode = PickMode(random);
      step.umask = PickUmask(random);
      step.user = PickUser(random);
      break;
    case Op::kMakeNode:
      FillNode(random, &step);
      break;
    case Op::kSymlink:
      step.text = MakeBytes(random.Next(), 1 + random.Below(100));
      step.user = PickUser(random);
      break;
    case Op::kRename:
      step.other = PickPath(random);
      step.flags = random.OneIn(2) ? 0 : static_cast<uint32_t>(random.Below(5));
      break;
    case Op::kLink:
      step.other = PickPath(random);
      break;
    case Op::kChmod:
      step.mode = PickMode(random);
      break;
    case Op::kChown:
      step.user = PickUser(random);
      break;
    case Op::kTimes:
      step.atime = PickTime(random);
      step.mtime = PickTime(random);
      break;
    case Op::kSetXattr:
    case Op::kGetXattr:
    case Op::kRemoveXattr:
      FillXattr(random, &step);
      if (step.text == "system.posix_acl_default" && !random.OneIn(4)) {
        step.path = {PickDirectoryName(random)};  // of what has names below it
      }
      break;
    case Op::kList:
      step.length = uint64_t{512} << random.Below(8);
      break;
    case Op::kLock:
    case Op::kGetLock:
    case Op::kFlock:
      FillLock(random, &step);
      break;
    default:
      break;
  }
  return step;
}

std::vector<Step> MakeScript(uint64_t seed, uint64_t count) {
  std::vector<Step> script;
  script.reserve(count);
  for (uint64_t i = 0; i < count; ++i) {
    script.push_back(MakeStep(seed, i));
  }
  return script;
}

// No NUL among them: link targets are made so, too.
std::string MakeBytes(uint64_t seed, size_t length) {
  Random random(seed);
  std::string bytes(length, '\0');
  uint64_t word = 0;
  for (size_t i = 0; i < length; ++i) {
    word = i % 8 == 0 ? random.Next() : word >> 8U;
    const auto byte = static_cast<char>(word & 0xffU);
    bytes[i] = byte == '\0' ? '0' : byte;
  }
  return bytes;
}

}  // namespace wyvern::fs::differential
