// agent/cpu_hotplug.h — takes CPUs online and offline.
// Spec:    Documentation/core-api/cpu_hotplug.rst: /sys/devices/system/cpu/cpuN/online. CPU numbers are those of the MADT or FDT in
//          order, which are the VMM's vCPU indices.
// Cgroups: a CPU that goes takes itself out of every cpuset (v2: cpuset.cpus.effective), and a task whose last one it was runs where
//          its parent group may; one that comes back is in them again. Nothing here has to be undone.
// Threads: MakeCpuJob on the loop's thread; the job is for a lane.
#pragma once

#include <memory>
#include <optional>
#include <set>
#include <string_view>

#include "agent/kernel_files.h"
#include "agent/lane.h"
#include "proto/upcall.pb.h"
#include "ttrpc/call.h"

namespace wyvern::agent {

// "0-2,5" (cpulist of the kernel); nothing for what is none, or goes beyond CPU 8191.
std::optional<std::set<uint32_t>> ParseCpuList(std::string_view text);

// INVALID_ARGUMENT for what breaks the bounds of upcall.proto. `files` outlives the job.
Result<std::shared_ptr<Job>> MakeCpuJob(const KernelFiles& files, const v1::CpuRequest& request,
                                        bool online, ttrpc::Responder<v1::CpuResponse> responder);

}  // namespace wyvern::agent
