// bench/drive.h — `wyvern-bench drive`: a wyvern-vmm whose every step somebody else says, line by line; its guest has an agent.
// Wire:    stdin: a JSON object per line; stdout: one for each, when it is done, in any order. {"n": number, "do": …}:
//            attach   a device, see driven_devices.h; before the guest is booted, too
//            detach   "id"; "force", "deadline_ms"
//            boot
//            connect  to the agent by the vsock device there is; "patience_ms"
//            run      "script" for the guest's shell; "out": file of the host for what it prints; "patience_ms"
//            vcpus    "count"; "deadline_ms"
//            memory   "bytes"; "deadline_ms"
//            metrics
//            console  what the guest has said on its serial console, the end of it
//          Each is answered {"n", "ok": true, "begin_ns", "end_ns" of CLOCK_MONOTONIC around the VMM's call, …}, or
//          {"n", "ok": false, "code": "NOT_FOUND", "error": text}. The first line, unasked, is {"vmm": pid}.
// Threads: each line is done by a thread of its own; who wants order waits for the answer.
#pragma once

#include <cstdint>
#include <string>

#include "base/error.h"

namespace wyvern::bench {

struct DriveOptions {
  std::string vmm, fs, kernel, initrd, cmdline;
  uint64_t memory = uint64_t{256} << 20U;  // bytes
  uint64_t hotplug_memory = 0;             // bytes that a Mem device may add
  uint32_t vcpus = 1;
  uint32_t max_vcpus = 0;  // 0: as many
};

// Until stdin ends; then the VMM is killed.
Result<> Drive(const DriveOptions& options);

}  // namespace wyvern::bench
