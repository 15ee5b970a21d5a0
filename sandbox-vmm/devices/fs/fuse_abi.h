// fs/fuse_abi.h — the FUSE wire structures: linux/fuse.h plus what the oldest header we build with
// (7.38, Debian 12) lacks.
// Spec:    include/uapi/linux/fuse.h 7.41. Native byte order on both sides, every structure a multiple
//          of 8 bytes.
#pragma once

#include <linux/fuse.h>

#include <cstdint>

#include "base/error.h"

namespace wyvern::fs {

// What we speak; a client with an older minor than kMinimumMinor (Linux 5.4) is refused.
inline constexpr uint32_t kFuseMajor = 7;
inline constexpr uint32_t kFuseMinor = 41;
inline constexpr uint32_t kMinimumMinor = 31;

// INIT flag bits 32..63 travel in flags2. FUSE_CREATE_SUPP_GROUP of linux/fuse.h 7.38.
inline constexpr uint64_t kCreateSuppGroup = 1ULL << 34;
// FUSE_DIRECT_IO_ALLOW_MMAP, 7.39.
inline constexpr uint64_t kDirectIoAllowMmap = 1ULL << 36;
// FUSE_ALLOW_IDMAP, 7.41: requests other than creating ones carry no user (ids of all ones).
inline constexpr uint64_t kAllowIdmap = 1ULL << 40;

// FUSE_STATX, 7.39. Our names: newer headers have structures of the kernel's.
inline constexpr uint32_t kOpcodeStatx = 52;

struct StatxIn {
  uint32_t getattr_flags;
  uint32_t reserved;
  uint64_t fh;
  uint32_t sx_flags;
  uint32_t sx_mask;
};

struct StatxTime {
  int64_t seconds;
  uint32_t nanoseconds;
  int32_t reserved;
};

struct StatxAttributes {
  uint32_t mask;
  uint32_t blksize;
  uint64_t attributes;
  uint32_t nlink;
  uint32_t uid;
  uint32_t gid;
  uint16_t mode;
  uint16_t spare0;
  uint64_t ino;
  uint64_t size;
  uint64_t blocks;
  uint64_t attributes_mask;
  StatxTime atime;
  StatxTime btime;
  StatxTime ctime;
  StatxTime mtime;
  uint32_t rdev_major;
  uint32_t rdev_minor;
  uint32_t dev_major;
  uint32_t dev_minor;
  uint64_t spare2[14];
};

struct StatxOut {
  uint64_t attr_valid;
  uint32_t attr_valid_nsec;
  uint32_t flags;  // FUSE_ATTR_…
  uint64_t spare[2];
  StatxAttributes stat;
};

// Extensions behind the arguments of creating requests (fuse_in_header.total_extlen).
struct ExtensionHeader {
  uint32_t size;  // with this header, a multiple of 8
  uint32_t type;
};

// FUSE_EXT_GROUPS: struct fuse_supp_groups { u32 nr_groups; u32 groups[]; }
inline constexpr uint32_t kExtensionGroups = 32;

static_assert(sizeof(fuse_in_header) == 40);
static_assert(sizeof(fuse_out_header) == 16);
static_assert(sizeof(fuse_attr) == 88);
static_assert(sizeof(fuse_entry_out) == 128);
static_assert(sizeof(fuse_init_out) == 64);
static_assert(sizeof(fuse_write_in) == 40);
static_assert(sizeof(fuse_setattr_in) == 88);
static_assert(sizeof(fuse_lk_in) == 48);
static_assert(sizeof(fuse_setupmapping_in) == 40);
static_assert(sizeof(StatxIn) == 24);
static_assert(sizeof(StatxOut) == 288);

// An errno of the host that goes to the guest as it is: the protocol's own kind of failure, not an
// Error.
struct Errno {
  int value;
};

template <typename T = void>
using FsResult = tl::expected<T, Errno>;

inline tl::unexpected<Errno> FsError(int number) {
  return tl::unexpected(Errno{number});
}

// The errno of the call that just failed. Our own descriptor shortage is the file system's
// (ENFILE), not the guest process's (EMFILE).
tl::unexpected<Errno> LastErrno();

}  // namespace wyvern::fs

// As WV_TRY and WV_TRY_VOID, for FsResult.
#define FS_TRY(lhs, expression) WV_TRY(lhs, expression)
#define FS_TRY_VOID(expression) WV_TRY_VOID(expression)
