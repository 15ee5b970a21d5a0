#include "fs/shared_dax_window.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "fs/dax_table.h"

namespace wyvern::fs_process {

namespace {

constexpr uint8_t kDaxRegionId = 0;  // VIRTIO §5.11.6.4: VIRTIO_FS_SHMCAP_ID_CACHE
constexpr uint64_t kRangeBytes = fs::kDaxRangeBytes;

}  // namespace

SharedDaxWindow::SharedDaxWindow(uint64_t size) : mapped_(size / kRangeBytes) {
  WV_CHECK(size % kRangeBytes == 0);
}

uint64_t SharedDaxWindow::size() const {
  return mapped_.size() * kRangeBytes;
}

Result<> SharedDaxWindow::UnmapRange(size_t range) {
  const uint64_t length = std::exchange(mapped_[range], 0);
  if (length == 0 || gone_.load(std::memory_order_relaxed)) {
    return {};
  }
  return requests_->UnmapShared(kDaxRegionId, range * kRangeBytes, length);
}

Result<> SharedDaxWindow::Map(FdRef file, uint64_t file_offset, uint64_t window_offset,
                              uint64_t length, bool writable) {
  WV_CHECK(window_offset % kRangeBytes == 0 && length <= size() &&
           window_offset <= size() - length);
  if (requests_ == nullptr) {
    return Fail(Code::kFailedPrecondition, "no front-end has the window yet");
  }
  for (uint64_t done = 0; done < length; done += kRangeBytes) {
    const auto range = static_cast<size_t>((window_offset + done) / kRangeBytes);
    const uint64_t bytes = std::min(length - done, kRangeBytes);
    // Where that is refused and something is there all the same, the next request is refused too.
    static_cast<void>(UnmapRange(range));
    WV_TRY_VOID(requests_->MapShared(kDaxRegionId, range * kRangeBytes, file, file_offset + done,
                                     bytes, writable));
    mapped_[range] = bytes;
  }
  return {};
}

Result<> SharedDaxWindow::Unmap(uint64_t window_offset, uint64_t length) {
  WV_CHECK(length <= size() && window_offset <= size() - length);
  Result<> result;
  const uint64_t end = window_offset + length;
  for (uint64_t at = window_offset / kRangeBytes * kRangeBytes; at < end; at += kRangeBytes) {
    if (auto unmapped = UnmapRange(static_cast<size_t>(at / kRangeBytes)); !unmapped && result) {
      result = std::move(unmapped);
    }
  }
  return result;
}

}  // namespace wyvern::fs_process
