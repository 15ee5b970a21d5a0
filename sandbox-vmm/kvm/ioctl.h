// kvm/ioctl.h — the one ioctl call of kvm/, EINTR retried. Not for KVM_RUN, where EINTR is an answer.
#pragma once

#include <sys/ioctl.h>

#include <cerrno>
#include <cstdint>

#include "base/fd.h"

namespace wyvern::kvm {

// What struct kvm_cpuid2, kvm_msrs and kvm_irq_routing start with, before their array. Older kernel headers give those structs another
// size in C++ than in C, so that ioctl numbers made from them would be wrong: numbers are made from this instead.
struct CountedHeader {
  uint32_t count = 0;
  uint32_t reserved = 0;
};

static_assert(sizeof(CountedHeader) == 8);

inline int RetryIoctl(FdRef fd, unsigned long request, unsigned long argument) {
  int result = 0;
  do {
    result = ::ioctl(fd.get(), request, argument);
  } while (result < 0 && errno == EINTR);
  return result;
}

inline int RetryIoctl(FdRef fd, unsigned long request, const void* argument) {
  int result = 0;
  do {
    result = ::ioctl(fd.get(), request, argument);
  } while (result < 0 && errno == EINTR);
  return result;
}

}  // namespace wyvern::kvm
