// How full the file system of a disk is, and that it takes all of a disk that has grown.
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/ioctl.h>
#include <linux/types.h>
#include <sys/ioctl.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>

#include <cerrno>

#include "agent/block_disk.h"
#include "base/fd.h"

namespace wyvern::agent {
namespace {

constexpr uint64_t kExtMagic = 0xEF53;  // linux/magic.h, of ext2, ext3 and ext4
constexpr uint64_t kXfsMagic = 0x58465342;
// fs/ext4/ext4.h: the number of blocks that it is to have.
constexpr unsigned long kExtResize = _IOW('f', 16, __u64);

// fs/xfs/libxfs/xfs_fs.h
struct XfsGrowData {
  __u64 new_blocks;
  __u32 percent;
};

constexpr unsigned long kXfsGrow = _IOW('X', 110, XfsGrowData);

// The ioctls of xfs_fs.h want the largest share of blocks that inodes may have; that of XFS_IOC_FSGEOMETRY_V1.
struct XfsGeometry {
  __u32 block_size, rt_extent_size, ag_blocks, ag_count, log_blocks, sector_size, inode_size;
  __u32 inode_percent;
  __u64 data_blocks, rt_blocks, rt_extents, log_start;
  unsigned char uuid[16];
  __u32 stripe_unit, stripe_width;
  __s32 version;
  __u32 flags, log_sector_size, rt_sector_size, dir_block_size;
};

constexpr unsigned long kXfsGeometry = _IOR('X', 100, XfsGeometry);

Result<> GrowExt(FdRef root, uint64_t block, uint64_t disk_bytes) {
  __u64 blocks = disk_bytes / block;
  if (ioctl(root.get(), kExtResize, &blocks) != 0) {
    return SysError("growing ext4");
  }
  return {};
}

Result<> GrowXfs(FdRef root, uint64_t disk_bytes) {
  XfsGeometry geometry = {};
  if (ioctl(root.get(), kXfsGeometry, &geometry) != 0 || geometry.block_size == 0) {
    return SysError("the geometry of xfs");
  }
  XfsGrowData wanted = {disk_bytes / geometry.block_size, geometry.inode_percent};
  if (wanted.new_blocks > geometry.data_blocks && ioctl(root.get(), kXfsGrow, &wanted) != 0) {
    return SysError("growing xfs");
  }
  return {};
}

}  // namespace

Result<std::string> UsageOf(const std::string& target) {
  struct statvfs info = {};
  if (statvfs(target.c_str(), &info) != 0) {
    return SysError("statvfs");
  }
  const uint64_t unit = info.f_frsize;
  return fmt::format("{} {} {} {} {} {}", info.f_blocks * unit, info.f_bavail * unit,
                     (info.f_blocks - info.f_bfree) * unit, uint64_t{info.f_files},
                     uint64_t{info.f_favail}, uint64_t{info.f_files - info.f_ffree});
}

Result<> GrowFilesystem(const std::string& target, uint64_t disk_bytes) {
  WV_TRY(const UniqueFd root, Open(target, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
  struct statfs info = {};
  if (fstatfs(root.get(), &info) != 0) {
    return SysError("statfs");
  }
  const auto magic = static_cast<uint64_t>(info.f_type);
  if (magic != kExtMagic && magic != kXfsMagic) {
    return Fail(Code::kUnimplemented, "its file system does not grow while it is mounted");
  }
  auto grown = magic == kXfsMagic ? GrowXfs(root, disk_bytes)
                                  : GrowExt(root, static_cast<uint64_t>(info.f_bsize), disk_bytes);
  if (!grown.has_value() && grown.error().sys_errno() == EROFS) {
    return Fail(Code::kFailedPrecondition, "its file system is read-only");
  }
  return grown;
}

}  // namespace wyvern::agent
