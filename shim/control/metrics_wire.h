// control/metrics_wire.h — metrics and events as messages of wyvern.control.v1, both ways: the sandbox's owner and the CLI.
// Bounds:  an answer is at most kMaxMetricsBytes (a ttrpc message is 4 MiB at most): families that do not fit are left out and counted.
// Trust:   what comes in is held to what observe/family.h and observe/event_log.h hold everything to.
#pragma once

#include "observe/event_log.h"
#include "observe/family.h"
#include "proto/control.pb.h"

namespace wyvern::shim {

inline constexpr size_t kMaxMetricsBytes = 3U << 20U;

control::v1::MetricsResponse ToMessage(const observe::FamilySet& families);
observe::FamilySet FromMessage(const control::v1::MetricsResponse& message);

control::v1::SandboxEvent ToMessage(const observe::Event& event);
// Of a kind that we do not know: kind 0.
observe::Event FromMessage(const control::v1::SandboxEvent& message);

}  // namespace wyvern::shim
