// fs/fuse_abi.h — the FUSE wire structures: linux/fuse.h plus what the oldest header we build with
// (7.38, Debian 12) lacks.
// Spec:    include/uapi/linux/fuse.h. Native byte order on both sides, every structure a multiple
//          of 8 bytes.
#pragma once

#include <linux/fuse.h>

#include <cstdint>

#include "base/error.h"

namespace wyvern::fs {

// What we speak; a client with an older minor than kMinimumMinor (Linux 5.4) is refused.
inline constexpr uint32_t kFuseMajor = 7;
inline constexpr uint32_t kFuseMinor = 38;
inline constexpr uint32_t kMinimumMinor = 31;

// INIT flag bits 32..63 travel in flags2. FUSE_CREATE_SUPP_GROUP of linux/fuse.h 7.38.
inline constexpr uint64_t kCreateSuppGroup = 1ULL << 34;
// FUSE_DIRECT_IO_ALLOW_MMAP, 7.39.
inline constexpr uint64_t kDirectIoAllowMmap = 1ULL << 36;

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
