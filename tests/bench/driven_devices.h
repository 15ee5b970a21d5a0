// bench/driven_devices.h — devices as `wyvern-bench drive` is asked for them: JSON into a request of the VMM's API, what it needs donated.
// Shape:   {"kind": …} and, by kind:
//            blk      "path"; "serial", "read_only"
//            pmem     "path"
//            net      "mac" as 12 hex digits; "host": address of the tap's end, in a network namespace of its own, of a /24
//            fs       "tag", "directory": by a wyvern-fs of its own, whose export "x" it is
//            vsock    "cid"
//            console  "ports": [{"name"; "socket": path of a listening unix socket; none: the VMM's own}]
//            balloon  "page_reporting", "deflate_on_oom"
//            rng, mem
// Errors:  INVALID_ARGUMENT: no such kind, or not as above; those of what is opened.
// Threads: one for each device.
#pragma once

#include <memory>
#include <string>

#include <nlohmann/json_fwd.hpp>

#include "bench/vmm_process.h"
#include "hypervisor/file_server.h"

namespace wyvern::bench {

// What lives as long as the device, on the host: gone with its destructor.
struct Behind {
  Behind() = default;
  Behind(const Behind&) = delete;
  Behind& operator=(const Behind&) = delete;
  ~Behind();

  std::unique_ptr<runtime::FileServerProcess> fs;
};

struct DrivenDevice {
  vmm::v1::AttachDeviceRequest request;
  std::unique_ptr<Behind> behind;
};

Result<DrivenDevice> MakeDevice(VmmProcess& vmm, const nlohmann::json& words,
                                const std::string& fs_binary);

}  // namespace wyvern::bench
