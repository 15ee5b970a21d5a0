// task/stats.h — a container's figures as containerd's collector reads them on a host with cgroup v2.
#pragma once

#include "proto/containerd_types.pb.h"
#include "sandbox/sandbox.h"

namespace wyvern::shim {

// io.containerd.cgroups.v2.Metrics in an Any.
pb::Any EncodeStats(const runtime::ContainerStats& stats);

}  // namespace wyvern::shim
