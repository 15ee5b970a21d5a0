#include "vhost_user/state_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "vhost_user/device_state.h"

namespace wyvern::vhost_user {

namespace {

constexpr int kUnchangeable = F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK;

Result<> AddSeals(const UniqueFd& file, int seals) {
  if (::fcntl(file.get(), F_ADD_SEALS, seals | F_SEAL_SEAL) != 0) {
    return SysError("fcntl(F_ADD_SEALS) of a device's state");
  }
  return {};
}

// To its end, should that come first. By pread: the offset of a file that is shared has a lock.
Result<std::vector<std::byte>> ReadFirst(FdRef file, size_t bytes) {
  std::vector<std::byte> state(bytes);
  size_t have = 0;
  while (have < bytes) {
    const ssize_t got =
        ::pread(file.get(), state.data() + have, bytes - have, static_cast<off_t>(have));
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got < 0) {
      return SysError("pread of a device's state");
    }
    if (got == 0) {
      break;
    }
    have += static_cast<size_t>(got);
  }
  state.resize(have);
  return state;
}

}  // namespace

bool IsInMemory(FdRef file) {
  return ::fcntl(file.get(), F_GET_SEALS) >= 0;
}

bool IsSealed(FdRef file) {
  const int seals = ::fcntl(file.get(), F_GET_SEALS);
  return seals >= 0 && (seals & kUnchangeable) == kUnchangeable;
}

Result<UniqueFd> SealState(std::span<const std::byte> state) {
  WV_TRY(UniqueFd file, MakeMemfd("state", 0, MFD_ALLOW_SEALING));
  WV_TRY_VOID(WriteAll(file, state));
  if (::lseek(file.get(), 0, SEEK_SET) != 0) {
    return SysError("lseek of a device's state");
  }
  WV_TRY_VOID(AddSeals(file, kUnchangeable));
  return file;
}

Result<std::vector<std::byte>> ReadStateFile(FdRef file) {
  WV_TRY(const struct stat info, Fstat(file));
  if (info.st_size < 0 || static_cast<uint64_t>(info.st_size) > DeviceState::kMaxBytes) {
    return Fail(Code::kResourceExhausted, "a device state without end");
  }
  return ReadFirst(file, static_cast<size_t>(info.st_size));
}

Result<UniqueFd> MakeStateRoom() {
  WV_TRY(UniqueFd room, MakeMemfd("state", DeviceState::kMaxBytes, MFD_ALLOW_SEALING));
  WV_TRY_VOID(AddSeals(room, F_SEAL_GROW | F_SEAL_SHRINK));
  return room;
}

Result<std::vector<std::byte>> ReadStateRoom(FdRef room) {
  const off_t end = ::lseek(room.get(), 0, SEEK_CUR);
  if (end < 0) {
    return SysError("lseek of a device's state");
  }
  return ReadFirst(room, std::min(static_cast<size_t>(end), DeviceState::kMaxBytes));
}

}  // namespace wyvern::vhost_user
