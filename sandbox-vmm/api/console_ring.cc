#include "api/console_ring.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstring>

namespace wyvern::api {

namespace {

constexpr size_t kHeader = kConsoleRingFile - kConsoleRingData;

}  // namespace

Result<UniqueFd> MakeConsoleRing() {
  WV_TRY(UniqueFd fd, MakeMemfd("wyvern-console", kConsoleRingFile, MFD_ALLOW_SEALING));
  // A reader's mapping cannot be cut under it.
  if (fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return SysError("seal the console ring");
  }
  return fd;
}

Result<std::unique_ptr<ConsoleRingWriter>> ConsoleRingWriter::Create(FdRef ring) {
  WV_TRY(const struct stat info, Fstat(ring));
  if (info.st_size < static_cast<off_t>(kConsoleRingFile)) {
    return Fail(Code::kInvalidArgument, "the console ring is too small");
  }
  WV_TRY(Mapping mapping,
         Mapping::Create(kConsoleRingFile, PROT_READ | PROT_WRITE, MAP_SHARED, ring));
  return std::unique_ptr<ConsoleRingWriter>(new ConsoleRingWriter(std::move(mapping)));
}

void ConsoleRingWriter::Append(std::span<const std::byte> text) {
  // Only the last kConsoleRingData bytes can stay.
  if (text.size() > kConsoleRingData) {
    total_ += text.size() - kConsoleRingData;
    text = text.last(kConsoleRingData);
  }
  std::byte* data = mapping_.data() + kHeader;
  const size_t at = total_ % kConsoleRingData;
  const size_t first = std::min(text.size(), kConsoleRingData - at);
  std::memcpy(data + at, text.data(), first);
  std::memcpy(data, text.data() + first, text.size() - first);
  total_ += text.size();
  std::atomic_ref(*reinterpret_cast<uint64_t*>(mapping_.data()))
      .store(total_, std::memory_order_release);
}

Result<ConsoleText> ReadConsoleRing(FdRef ring) {
  WV_TRY(const Mapping mapping, Mapping::Create(kConsoleRingFile, PROT_READ, MAP_SHARED, ring));
  const uint64_t total =
      std::atomic_ref(*reinterpret_cast<uint64_t*>(mapping.data())).load(std::memory_order_acquire);
  const uint64_t size = std::min(total, kConsoleRingData);
  const size_t start = (total - size) % kConsoleRingData;
  const auto* data = reinterpret_cast<const char*>(mapping.data() + kHeader);
  ConsoleText result;
  result.dropped = total - size;
  const size_t first = std::min<size_t>(size, kConsoleRingData - start);
  result.text.assign(data + start, first);
  result.text.append(data, size - first);
  return result;
}

}  // namespace wyvern::api
