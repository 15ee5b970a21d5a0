// kvm/probe_guest.h — the architecture's part of the probe: the counting loop natively and as a guest.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/error.h"
#include "base/fd.h"

namespace wyvern::kvm {

constexpr uint32_t kProbeIterations = 50000;
constexpr size_t kProbeMemory = 64 << 10U;  // bytes at guest address 0

// Counts down from kProbeIterations on this CPU.
void RunProbeLoop();

// Fills the guest's memory with the same loop, which then leaves the guest by an exit and starts again.
void WriteProbeGuest(std::span<std::byte> memory);
// Registers to start it.
Result<> SetProbeRegisters(FdRef vcpu);

}  // namespace wyvern::kvm
