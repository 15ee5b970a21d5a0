#include "vhost_user/dirty_log.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>

namespace wyvern::vhost_user {

Result<std::unique_ptr<DirtyLog>> DirtyLog::Map(UniqueFd fd, const LogArea& area) {
  WV_TRY(const auto st, Fstat(fd));
  const auto file = static_cast<uint64_t>(std::max<off_t>(st.st_size, 0));
  if (area.size == 0 || area.size > file || area.offset > file - area.size) {
    return Fail(Code::kInvalidArgument, fmt::format("a log of {} bytes at {} in a file of {}",
                                                    area.size, area.offset, file));
  }
  const uint64_t skip = area.offset % kPage;
  WV_TRY(Mapping mapping, Mapping::Create(area.size + skip, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
                                          static_cast<off_t>(area.offset - skip)));
  return std::unique_ptr<DirtyLog>(new DirtyLog(std::move(mapping), skip, area.size));
}

void DirtyLog::Mark(uint64_t address, uint64_t length) {
  if (length == 0) {
    return;
  }
  const uint64_t last_byte = length - 1 > UINT64_MAX - address ? UINT64_MAX : address + length - 1;
  const uint64_t first = address / kPage;
  const uint64_t last = last_byte / kPage;
  const uint64_t pages = size_ * 8;  // the size is a mapping's: this does not overflow
  if (last >= pages) {
    missed_.fetch_add(last - std::max(first, pages) + 1, std::memory_order_relaxed);
  }
  for (uint64_t page = first; page <= last && page < pages; ++page) {
    auto& byte = reinterpret_cast<uint8_t&>(mapping_.data()[skip_ + page / 8]);
    // Always, also where the bit is set already: only a locked operation keeps the data's writes
    // before a look at the bit, and a front-end may be taking it now.
    std::atomic_ref<uint8_t>(byte).fetch_or(static_cast<uint8_t>(1U << (page % 8)),
                                            std::memory_order_seq_cst);
  }
}

}  // namespace wyvern::vhost_user
