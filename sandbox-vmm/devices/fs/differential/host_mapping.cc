#include "fs/differential/host_mapping.h"

#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace wyvern::fs::differential {

namespace {

constexpr size_t kPageBytes = 4096;

// Where the thread goes on that touches a mapping.
thread_local sigjmp_buf after_bus_error;
thread_local volatile sig_atomic_t touches_mapping = 0;

void OnBusError(int signal) {
  if (touches_mapping != 0) {
    siglongjmp(after_bus_error, 1);
  }
  ::signal(signal, SIG_DFL);  // not ours: the same access again ends the process
}

void CatchBusErrors() {
  static const bool once = [] {
    struct sigaction action {};

    action.sa_handler = OnBusError;
    action.sa_flags = SA_NODEFER;  // siglongjmp leaves the handler without its end
    return ::sigaction(SIGBUS, &action, nullptr) == 0;
  }();
  (void)once;
}

// Copies page by page, of which `boundary` says where they begin; the bytes until a SIGBUS.
size_t CopyGuarded(char* to, const char* from, size_t length, size_t boundary) {
  volatile size_t done = 0;
  touches_mapping = 1;
  if (sigsetjmp(after_bus_error, 0) == 0) {
    while (done < length) {
      const size_t piece = std::min(length - done, kPageBytes - (boundary + done) % kPageBytes);
      std::memcpy(to + done, from + done, piece);
      done = done + piece;
    }
  }
  touches_mapping = 0;
  return done;
}

}  // namespace

int HostMapping::Create(int fd, const MapRange& range, MappingRef* out) {
  CatchBusErrors();
  const int protection = range.writable ? PROT_READ | PROT_WRITE : PROT_READ;
  void* at = ::mmap(nullptr, range.length, protection, range.shared ? MAP_SHARED : MAP_PRIVATE, fd,
                    static_cast<off_t>(range.offset));
  if (at == MAP_FAILED) {
    return errno;
  }
  out->reset(new HostMapping(static_cast<char*>(at), range.length));
  return 0;
}

HostMapping::~HostMapping() {
  ::munmap(at_, length_);
}

int HostMapping::Look(std::string* out) {
  out->assign(length_, '\0');
  out->resize(CopyGuarded(out->data(), at_, length_, 0));
  return 0;
}

int HostMapping::Store(uint64_t offset, const std::string& data, size_t* stored) {
  *stored = CopyGuarded(at_ + offset, data.data(), data.size(), offset);
  return 0;
}

int HostMapping::Sync() {
  return ::msync(at_, length_, MS_SYNC) < 0 ? errno : 0;
}

}  // namespace wyvern::fs::differential
