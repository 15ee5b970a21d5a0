#include "guest/erofs_file.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <span>

#include "base/endian.h"

namespace wyvern::guest {

namespace {

constexpr uint64_t kSuperBlock = 1024;
constexpr uint32_t kErofsMagic = 0xe0f5e1e2;  // EROFS_SUPER_MAGIC_V1
constexpr uint64_t kInodeSlot = 32;
constexpr uint64_t kMaxDirectory = 1U << 20U;
constexpr uint16_t kPlain = 0;   // EROFS_INODE_FLAT_PLAIN
constexpr uint16_t kInline = 2;  // EROFS_INODE_FLAT_INLINE

struct SuperBlock {
  Le32 magic;
  Le32 checksum;
  Le32 feature_compat;
  uint8_t block_bits;
  uint8_t extended_slots;
  Le16 root_nid;
  Le64 inodes;
  Le64 build_time;
  Le32 build_time_ns;
  Le32 blocks;
  Le32 meta_block;
};

// The first fields of both forms; of `size` the compact one has the lower half only.
struct RawInode {
  Le16 format;  // bit 0: extended; bits 1–3: layout
  Le16 xattr_count;
  Le16 mode;
  Le16 reserved;
  Le64 size;
  Le32 block;  // of the data
};

constexpr uint64_t kCompactSize = 32;
constexpr uint64_t kExtendedSize = 64;

struct DirectoryEntry {
  Le64 nid;
  Le16 name_offset;
  uint8_t type;
  uint8_t reserved;
};

static_assert(sizeof(SuperBlock) == 44 && sizeof(RawInode) == 20 && sizeof(DirectoryEntry) == 12);

struct Inode {
  uint16_t layout = 0;
  uint16_t mode = 0;
  uint64_t size = 0;
  uint64_t data = 0;  // offset of its blocks in the image
  uint64_t tail = 0;  // offset of what is inline
};

tl::unexpected<Error> DamagedImage(const char* what) {
  return Fail(Code::kDataLoss, fmt::format("the EROFS image is damaged: {}", what));
}

class Image {
 public:
  static Result<Image> Open(FdRef file) {
    Image image(file);
    WV_TRY_VOID(image.Read(kSuperBlock, std::as_writable_bytes(std::span(&image.super_, 1))));
    if (image.super_.magic != kErofsMagic) {
      return Fail(Code::kDataLoss, "not an EROFS image");
    }
    if (image.super_.block_bits < 9 || image.super_.block_bits > 16) {
      return DamagedImage("its block size");
    }
    return image;
  }

  uint64_t root() const { return super_.root_nid; }

  Result<Inode> ReadInode(uint64_t nid) const;
  Result<std::string> ReadData(const Inode& inode, uint64_t limit) const;
  Result<uint64_t> Lookup(const Inode& directory, std::string_view name) const;

 private:
  explicit Image(FdRef file) : file_(file) {}

  uint64_t block_size() const { return uint64_t{1} << super_.block_bits; }

  Result<> Read(uint64_t offset, std::span<std::byte> out) const;

  FdRef file_;
  SuperBlock super_{};
};

Result<> Image::Read(uint64_t offset, std::span<std::byte> out) const {
  if (offset > uint64_t{std::numeric_limits<int64_t>::max()} - out.size()) {
    return DamagedImage("an offset beyond everything");
  }
  while (!out.empty()) {
    const ssize_t got = pread(file_.get(), out.data(), out.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got < 0) {
      return SysError("read the EROFS image");
    }
    if (got == 0) {
      return DamagedImage("it ends early");
    }
    out = out.subspan(static_cast<size_t>(got));
    offset += static_cast<uint64_t>(got);
  }
  return {};
}

Result<Inode> Image::ReadInode(uint64_t nid) const {
  if (nid > std::numeric_limits<uint32_t>::max()) {
    return DamagedImage("an inode number beyond everything");
  }
  const uint64_t at = super_.meta_block.value() * block_size() + nid * kInodeSlot;
  RawInode raw{};
  WV_TRY_VOID(Read(at, std::as_writable_bytes(std::span(&raw, 1))));
  Inode inode;
  const bool extended = (raw.format & 1U) != 0;
  inode.layout = static_cast<uint16_t>((raw.format.value() >> 1U) & 7U);
  inode.mode = raw.mode;
  inode.size = extended ? raw.size.value() : raw.size.value() & 0xffffffffU;
  inode.data = raw.block.value() * block_size();
  const uint64_t xattrs =
      raw.xattr_count == 0 ? 0 : 12 + (raw.xattr_count.value() - uint64_t{1}) * 4;
  inode.tail = at + (extended ? kExtendedSize : kCompactSize) + xattrs;
  if (inode.layout != kPlain && inode.layout != kInline) {
    return Fail(Code::kUnimplemented, "the EROFS image holds the file compressed or in chunks");
  }
  return inode;
}

Result<std::string> Image::ReadData(const Inode& inode, uint64_t limit) const {
  if (inode.size > limit) {
    return DamagedImage("a file larger than it can be");
  }
  std::string data(inode.size, '\0');
  const std::span<std::byte> out = std::as_writable_bytes(std::span(data));
  const uint64_t whole = inode.layout == kPlain ? inode.size : inode.size & ~(block_size() - 1);
  WV_TRY_VOID(Read(inode.data, out.first(whole)));
  WV_TRY_VOID(Read(inode.tail, out.subspan(whole)));
  return data;
}

// The entries of one directory block: all fixed parts first, the names behind them.
Result<uint64_t> FindInBlock(std::string_view block, std::string_view name) {
  DirectoryEntry entry{};
  uint64_t count = 1;
  for (uint64_t i = 0; i < count; ++i) {
    DirectoryEntry next{};
    const uint64_t at = i * sizeof(entry);
    if (at + sizeof(entry) > block.size()) {
      return DamagedImage("a directory is cut short");
    }
    std::memcpy(&entry, block.data() + at, sizeof(entry));
    if (i == 0) {
      count = entry.name_offset / sizeof(entry);
    }
    uint64_t end = block.size();
    if (i + 1 < count && at + 2 * sizeof(entry) <= block.size()) {
      std::memcpy(&next, block.data() + at + sizeof(entry), sizeof(next));
      end = std::min<uint64_t>(next.name_offset, block.size());
    }
    if (entry.name_offset > end) {
      return DamagedImage("a directory's names are out of order");
    }
    std::string_view found = block.substr(entry.name_offset, end - entry.name_offset);
    found = found.substr(0, found.find('\0'));  // the last one is padded
    if (found == name) {
      return entry.nid.value();
    }
  }
  return Fail(Code::kNotFound, "no such name");
}

Result<uint64_t> Image::Lookup(const Inode& directory, std::string_view name) const {
  WV_TRY(const std::string data, ReadData(directory, kMaxDirectory));
  for (uint64_t at = 0; at < data.size(); at += block_size()) {
    auto nid = FindInBlock(std::string_view(data).substr(at, block_size()), name);
    if (nid || nid.error().code() != Code::kNotFound) {
      return nid;
    }
  }
  return Fail(Code::kNotFound, fmt::format("the EROFS image has no {}", name));
}

}  // namespace

Result<std::string> ReadErofsFile(FdRef file, std::string_view path, uint64_t limit) {
  WV_TRY(const Image image, Image::Open(file));
  WV_TRY(Inode inode, image.ReadInode(image.root()));
  while (!path.empty()) {
    const std::string_view name = path.substr(0, path.find('/'));
    path.remove_prefix(std::min(name.size() + 1, path.size()));
    if (!S_ISDIR(inode.mode)) {
      return Fail(Code::kNotFound, fmt::format("{} is below no directory", name));
    }
    WV_TRY(const uint64_t nid, image.Lookup(inode, name));
    WV_TRY(inode, image.ReadInode(nid));
  }
  if (!S_ISREG(inode.mode)) {
    return Fail(Code::kNotFound, "it is not a file");
  }
  return image.ReadData(inode, limit);
}

}  // namespace wyvern::guest
