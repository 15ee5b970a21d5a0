#include "fs/differential/fuse_mapping.h"

#include <algorithm>
#include <cerrno>

namespace wyvern::fs::differential {

namespace {

constexpr uint64_t kPageSize = 4096;

uint64_t PageEnd(uint64_t size) {
  return (size + kPageSize - 1) / kPageSize * kPageSize;
}

}  // namespace

int FuseMapping::Size(uint64_t* out) {
  Attributes attributes;
  const int error = file_.GetAttributes(&attributes);
  *out = attributes.size;
  own_.erase(own_.lower_bound(PageEnd(attributes.size)), own_.end());
  return error;
}

int FuseMapping::Look(std::string* out) {
  uint64_t size = 0;
  if (const int error = Size(&size); error != 0) {
    return error;
  }
  // Asked for even behind the end: as with mmap(2), the access time moves.
  if (const int error = file_.ReadPages(range_.offset, range_.length, out); error != 0) {
    return error;
  }
  const uint64_t end = std::min(PageEnd(size), range_.offset + range_.length);
  out->resize(end - std::min(end, range_.offset), '\0');
  for (const auto& [at, page] : own_) {
    out->replace(at - range_.offset, page.size(), page);
  }
  return 0;
}

int FuseMapping::StoreInPage(uint64_t page, size_t at, std::string_view data, uint64_t size) {
  const auto known = own_.find(page);
  std::string bytes;
  if (known != own_.end()) {
    bytes = known->second;
  } else if (const int error = file_.ReadPages(page, kPageSize, &bytes); error != 0) {
    return error;
  }
  bytes.resize(kPageSize, '\0');
  bytes.replace(at, data.size(), data);
  if (!range_.shared) {
    own_[page] = bytes;
    return 0;
  }
  bytes.resize(std::min(kPageSize, size - page));
  size_t written = 0;
  const int error = file_.WritePages(page, bytes, &written);
  return error == 0 && written != bytes.size() ? EIO : error;
}

int FuseMapping::Store(uint64_t offset, const std::string& data, size_t* stored) {
  *stored = 0;
  uint64_t size = 0;
  if (const int error = Size(&size); error != 0) {
    return error;
  }
  while (*stored < data.size()) {
    const uint64_t at = range_.offset + offset + *stored;
    if (at >= PageEnd(size)) {
      return 0;
    }
    const size_t in_page = at % kPageSize;
    const size_t piece = std::min<size_t>(kPageSize - in_page, data.size() - *stored);
    if (const int error =
            StoreInPage(at - in_page, in_page, std::string_view(data).substr(*stored, piece), size);
        error != 0) {
      return error;
    }
    *stored += piece;
  }
  return 0;
}

int FuseMapping::Sync() {
  return range_.shared ? file_.SyncData() : 0;
}

}  // namespace wyvern::fs::differential
