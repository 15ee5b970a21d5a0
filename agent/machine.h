// agent/machine.h — what the agent does to the guest as a whole once it runs: clock, entropy, name, share, sysctls.
// Threads: any.
#pragma once

#include <cstdint>
#include <string>

#include "base/error.h"

namespace wyvern::agent {

// Sets CLOCK_REALTIME when it is off by more than 50 ms (setting it for less would only make it jump).
Result<> SetClock(int64_t realtime_ns);
// Credits the bytes: they come from the host's own generator.
Result<> AddEntropy(const std::string& bytes);
Result<> SetHostname(const std::string& name);
// Mounts the virtio-fs device of that tag; the device is there from boot on, so there is nothing to wait for.
Result<> MountShare(const std::string& tag, const std::string& target);
// "net.ipv4.ip_forward=1"
Result<> SetSysctl(const std::string& assignment);
// Detaches a sub-mount of the share. False: it is none.
bool DetachMount(const std::string& path);

std::string KernelRelease();
uint32_t CpusOnline();
uint64_t MemoryBytes();
uint64_t BoottimeNs();

}  // namespace wyvern::agent
