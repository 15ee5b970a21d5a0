// kvm/ioctl.h — the one ioctl call of kvm/, EINTR retried. Not for KVM_RUN, where EINTR is an answer.
#pragma once

#include <sys/ioctl.h>

#include <cerrno>

#include "base/fd.h"

namespace wyvern::kvm {

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
