#include "vmm/confine.h"

#include <unistd.h>

#include "base/log.h"

namespace wyvern::vmm {

void Confine(jail::ThreadKind kind) {
  const auto installed = jail::InstallFilter(kind);
  if (!installed) {
    WV_ERROR("a thread cannot be confined: {}", installed.error().DebugString());
    _exit(1);
  }
}

devices::WorkerOptions WorkerFor(const std::string& id, jail::ThreadKind kind) {
  return {.name = id.substr(0, 15),
          .on_thread_start = [kind](const char* /*thread*/) { Confine(kind); }};
}

}  // namespace wyvern::vmm
