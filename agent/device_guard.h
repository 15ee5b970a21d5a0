// agent/device_guard.h — keeps every container, privileged ones too, from the virtio-console ports: the upcall's is one.
// Why:     the agent holds its port open, which Linux gives to one opener only. But who may write to sysfs can take the driver off the
//          device, put it back and be faster; and the VMM could not tell who answers.
// Shape:   a program of the cgroup that all containers are below. crun's own programs, in the containers' cgroups, can refuse more and cannot
//          allow what this one refuses. The driver of the ports takes a major number for each console device when that comes, which may be
//          long after the containers: so all dynamic numbers (linux/fs/char_dev.c) are refused but those that other drivers have from boot.
// Spec:    bpf(2), BPF_PROG_TYPE_CGROUP_DEVICE: Linux 4.15.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <string_view>

#include "base/error.h"

namespace wyvern::agent {

// Of the character devices in the text of /proc/devices: the dynamic major numbers of all drivers but `driver`.
std::set<uint32_t> DynamicMajorsBut(std::string_view driver, std::string_view proc_devices);

// Refuses the character devices of dynamic major numbers, but those in `allowed`, to all processes below the cgroup until it is gone.
Result<> RefuseDynamicDevices(const std::string& cgroup, const std::set<uint32_t>& allowed);

// Makes the cgroup of all containers and refuses the ports to it, also those that come later.
Result<> GuardPorts();

}  // namespace wyvern::agent
