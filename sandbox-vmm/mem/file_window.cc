#include "mem/file_window.h"

#include <fmt/format.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "base/check.h"

namespace wyvern::mem {

namespace {

constexpr uint64_t kFilePage = 4096;
// As guest memory: both sides can map huge pages.
constexpr uint64_t kWindowAlignment = 2ULL << 20U;
constexpr uint64_t kMaxWindow = 1ULL << 40U;

// A device's memory is no file to show. Of huge pages mmap(2) takes whole ones, whatever length it is
// given, and they would lie over what is beside the range.
Result<> CheckFile(FdRef file) {
  WV_TRY_CONTEXT(const struct stat info, Fstat(file), "a file for a window");

  struct statfs system {};

  if (::fstatfs(file.get(), &system) != 0) {
    return SysError("fstatfs of a file for a window");
  }
  if (!S_ISREG(info.st_mode) || system.f_type == HUGETLBFS_MAGIC) {
    return Fail(Code::kInvalidArgument, "only regular files of ordinary pages can be shown");
  }
  return {};
}

}  // namespace

Result<std::shared_ptr<FileWindow>> FileWindow::Create(uint64_t size) {
  if (size == 0 || size % kWindowAlignment != 0 || size > kMaxWindow) {
    return Fail(Code::kInvalidArgument,
                fmt::format("a window of {} bytes: must be a multiple of 2 MiB", size));
  }
  WV_TRY_CONTEXT(auto reservation,
                 Mapping::Create(size + kWindowAlignment, PROT_NONE,
                                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, FdRef(-1)),
                 "a window for files");
  const auto host = reinterpret_cast<uintptr_t>(reservation.data());
  std::byte* const base = reservation.data() + (kWindowAlignment - host % kWindowAlignment);
  return std::shared_ptr<FileWindow>(new FileWindow(std::move(reservation), base, size));
}

Result<> FileWindow::CheckRange(uint64_t offset, uint64_t length) const {
  if (length == 0 || length > size_ || offset > size_ - length ||
      (offset | length) % kFilePage != 0) {
    return Fail(Code::kInvalidArgument,
                fmt::format("{:#x}+{:#x} is no range of a window of {:#x}", offset, length, size_));
  }
  return {};
}

Result<> FileWindow::Map(uint64_t offset, uint64_t length, FdRef file, uint64_t file_offset,
                         bool writable) {
  WV_TRY_VOID(CheckRange(offset, length));
  if (file_offset % kFilePage != 0 || file_offset > static_cast<uint64_t>(INT64_MAX) - length) {
    return Fail(Code::kInvalidArgument, fmt::format("{:#x} is no offset of a file", file_offset));
  }
  WV_TRY_VOID(CheckFile(file));
  // Elsewhere first: MAP_FIXED takes away what is there before it asks the file system, and one that
  // then refuses would leave a hole, in which the guest sees what this process maps next.
  const int protection = writable ? PROT_READ | PROT_WRITE : PROT_READ;
  void* const fresh = ::mmap(nullptr, length, protection, MAP_SHARED | MAP_NORESERVE, file.get(),
                             static_cast<off_t>(file_offset));
  if (fresh == MAP_FAILED) {
    return SysError("mmap of a file for a window");
  }
  // That the file system was asked already leaves only the kernel's memory to fail here; the range
  // may be such a hole then.
  WV_CHECK(::mremap(fresh, length, length, MREMAP_MAYMOVE | MREMAP_FIXED, base_ + offset) ==
           base_ + offset);
  return {};
}

Result<> FileWindow::Unmap(uint64_t offset, uint64_t length) {
  WV_TRY_VOID(CheckRange(offset, length));
  constexpr int kReserved = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
  // As above: there is no file system to refuse.
  WV_CHECK(::mmap(base_ + offset, length, PROT_NONE, kReserved, -1, 0) == base_ + offset);
  return {};
}

}  // namespace wyvern::mem
