// For tests on machines that lack CAP_SYS_RESOURCE: crun raises RLIMIT_MEMLOCK before it loads a BPF program, which kernels since
// 5.11 do not need. Loaded into crun only.
#define _GNU_SOURCE
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

__attribute__((visibility("default"))) int setrlimit(__rlimit_resource_t resource,
                                                     const struct rlimit* limit) {
  if (resource == RLIMIT_MEMLOCK) {
    return 0;
  }
  return (int)syscall(SYS_prlimit64, 0, resource, limit, 0);
}
