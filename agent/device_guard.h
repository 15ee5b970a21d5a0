// agent/device_guard.h — keeps every container, privileged ones too, from the virtio-console ports: the upcall's is one.
// Why:     the agent holds its port open, which Linux gives to one opener only. But who may write to sysfs can take the driver off the
//          device, put it back and be faster; and the VMM could not tell who answers.
// Shape:   a program of the cgroup that all containers are below, which refuses the ports' major number. crun's own programs, in the
//          containers' cgroups, can refuse more and cannot allow what this one refuses.
// Spec:    bpf(2); BPF_PROG_TYPE_CGROUP_DEVICE (Documentation/bpf/prog_cgroup_sysctl.rst has its like); Linux 4.15.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/error.h"

namespace wyvern::agent {

// The number of a driver's character devices, by /proc/devices; nothing: it has none.
std::optional<uint32_t> CharacterMajor(std::string_view proc_devices, std::string_view driver);

// Refuses the character devices of `major` to all processes below the cgroup, until it is gone.
Result<> RefuseDevices(const std::string& cgroup, uint32_t major);

// Makes the cgroup of all containers and refuses the ports to it. No driver of ports: nothing to do.
Result<> GuardPorts();

}  // namespace wyvern::agent
