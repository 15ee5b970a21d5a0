// bench/hotplug.h — devices that come and go while the guest runs: how long each takes, as the VMM's client sees it.
#pragma once

#include <string>

#include "bench/vmm_process.h"

namespace wyvern::bench {

// Each round attaches a disk, a random source and `image` as persistent memory, and detaches them in another order. Prints one line for
// each attach and detach; ends with the first that fails. The guest has answered as an agent.
Result<> ComeAndGo(VmmProcess& vmm, const std::string& image, int rounds);

}  // namespace wyvern::bench
