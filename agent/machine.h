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
// Has the exports below the share mounted in our own mount namespace. Each is a file system of its own to the guest (FUSE submounts, so
// that st_dev tells them apart), which the kernel mounts on first use. Used first inside a container's namespace, it would end with
// the container's last process, maybe with reads ahead of that process in flight: Linux 6.1 then stops with "Busy inodes after unmount
// of virtiofs". DetachMount ends them. What fails is mounted on first use, as before.
void MountExports(const std::string& share);
// Detaches a sub-mount of the share. False: it is none.
bool DetachMount(const std::string& path);

std::string KernelRelease();
uint32_t CpusOnline();
uint64_t MemoryBytes();
uint64_t BoottimeNs();

}  // namespace wyvern::agent
