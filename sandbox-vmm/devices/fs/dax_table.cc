#include "fs/dax_table.h"

#include <cerrno>

#include "base/log.h"

namespace wyvern::fs {

namespace {

constexpr uint64_t kWindowPage = 4096;

bool IsMultiple(uint64_t value, uint64_t of) {
  return value % of == 0;
}

// Ranges that [offset, + length) touches, one past the last.
size_t LastRange(uint64_t offset, uint64_t length) {
  return static_cast<size_t>((offset + length + kDaxRangeBytes - 1) / kDaxRangeBytes);
}

}  // namespace

DaxTable::DaxTable(DaxWindow* window) : window_(window) {
  if (window_ != nullptr) {
    owners_.resize(static_cast<size_t>(window_->size() / kDaxRangeBytes));
  }
}

FsResult<> DaxTable::Check(const fuse_setupmapping_in& args) const {
  constexpr uint64_t kFlags = FUSE_SETUPMAPPING_FLAG_READ | FUSE_SETUPMAPPING_FLAG_WRITE;
  const uint64_t size = window_bytes();
  if (args.len == 0 || !IsMultiple(args.len, kWindowPage) ||
      !IsMultiple(args.moffset, kDaxRangeBytes) || !IsMultiple(args.foffset, kDaxRangeBytes) ||
      (args.flags & kFlags) == 0 || (args.flags & ~kFlags) != 0) {
    return FsError(EINVAL);
  }
  // VIRTIO §5.11.6.4: mappings that would go beyond the end of the window are rejected.
  if (args.len > size || args.moffset > size - args.len) {
    return FsError(EINVAL);
  }
  if (args.foffset > static_cast<uint64_t>(INT64_MAX) - args.len) {
    return FsError(EINVAL);
  }
  return {};
}

void DaxTable::SetOwnerLocked(size_t range, Owner owner) {
  Owner& now = owners_[range];
  if (now.node != 0) {
    const auto it = mapped_by_.find(now.node);
    if (it != mapped_by_.end() && --it->second == 0) {
      mapped_by_.erase(it);
    }
  }
  now = owner;
  if (now.node != 0) {
    ++mapped_by_[now.node];
  }
}

FsResult<> DaxTable::Map(uint64_t node, const Export* share, FdRef file,
                         const fuse_setupmapping_in& args) {
  const std::lock_guard lock(mu_);
  const bool writable = (args.flags & FUSE_SETUPMAPPING_FLAG_WRITE) != 0;
  const auto mapped = window_->Map(file, args.foffset, args.moffset, args.len, writable);
  const size_t last = LastRange(args.moffset, args.len);
  for (auto range = static_cast<size_t>(args.moffset / kDaxRangeBytes); range < last; ++range) {
    // Also after a failure: something of the file may be there, and goes with its node.
    SetOwnerLocked(range, {node, share});
  }
  if (!mapped) {
    WV_WARN_LIMITED("fs: mapping into the DAX window: {}", mapped.error().message());
    return FsError(EIO);
  }
  return {};
}

template <typename Wanted>
FsResult<> DaxTable::UnmapLocked(size_t first, size_t last, Wanted wanted) {
  bool failed = false;
  while (first < last) {
    if (!wanted(owners_[first])) {
      ++first;
      continue;
    }
    size_t end = first + 1;
    while (end < last && wanted(owners_[end])) {
      ++end;
    }
    const auto unmapped = window_->Unmap(first * kDaxRangeBytes, (end - first) * kDaxRangeBytes);
    if (!unmapped) {
      WV_WARN_LIMITED("fs: unmapping from the DAX window: {}", unmapped.error().message());
      failed = true;
    }
    for (; first < end; ++first) {
      SetOwnerLocked(first, {});
    }
  }
  if (failed) {
    return FsError(EIO);
  }
  return {};
}

FsResult<> DaxTable::Unmap(uint64_t offset, uint64_t length) {
  const uint64_t size = window_bytes();
  if (length == 0 || length > size || offset > size - length ||
      !IsMultiple(offset, kDaxRangeBytes) || !IsMultiple(length, kWindowPage)) {
    return FsError(EINVAL);
  }
  const std::lock_guard lock(mu_);
  return UnmapLocked(static_cast<size_t>(offset / kDaxRangeBytes), LastRange(offset, length),
                     [](const Owner& owner) { return owner.node != 0; });
}

void DaxTable::DropNode(uint64_t node) {
  const std::lock_guard lock(mu_);
  if (mapped_by_.contains(node)) {
    (void)UnmapLocked(0, owners_.size(), [node](const Owner& owner) { return owner.node == node; });
  }
}

void DaxTable::DropExport(const Export* share) {
  const std::lock_guard lock(mu_);
  if (!mapped_by_.empty()) {
    (void)UnmapLocked(0, owners_.size(), [share](const Owner& owner) {
      return owner.node != 0 && owner.share == share;
    });
  }
}

void DaxTable::Clear() {
  const std::lock_guard lock(mu_);
  if (!mapped_by_.empty()) {
    (void)UnmapLocked(0, owners_.size(), [](const Owner& owner) { return owner.node != 0; });
  }
}

size_t DaxTable::mapped_ranges() const {
  const std::lock_guard lock(mu_);
  size_t ranges = 0;
  for (const auto& [node, count] : mapped_by_) {
    ranges += count;
  }
  return ranges;
}

}  // namespace wyvern::fs
