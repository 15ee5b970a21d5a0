// api/requests.h — gRPC requests checked and turned into specs; descriptors taken from the donation store by name.
// Errors: INVALID_ARGUMENT names the field and what it may be; NOT_FOUND: no such donated descriptor.
#pragma once

#include "api/donation.h"
#include "api/virtual_machine.h"
#include "base/error.h"
#include "proto/vmm.pb.h"

namespace wyvern::api {

inline constexpr uint32_t kMaxVcpus = 8;          // at boot
inline constexpr uint32_t kMaxPlannedVcpus = 32;  // machine::kMaxVcpus
inline constexpr uint64_t kMemoryGranule = 2ULL << 20U;
inline constexpr uint64_t kMinMemory = 32ULL << 20U;
inline constexpr uint64_t kMaxMemory = 1ULL << 40U;
inline constexpr uint64_t kMinDaxWindow = 2ULL << 20U;  // what virtio-fs maps at once
// A window costs the guest 1/64 of its size in page structures.
inline constexpr uint64_t kMaxDaxWindow = 16ULL << 30U;
inline constexpr size_t kMaxCmdline =
    2000;  // the kernel's limit is 2048 and the machine adds its own part
inline constexpr size_t kMaxIdLength = 63;
// upcall::kConsolePortName
inline constexpr char kUpcallPortName[] = "wyvern.upcall";
inline constexpr std::chrono::milliseconds kDefaultPatience{10'000};
inline constexpr std::chrono::milliseconds kMaxPatience{600'000};

Result<MachineSpec> ParseCreate(const vmm::v1::CreateRequest& request, DonationStore& store);
Result<DeviceSpec> ParseDevice(const vmm::v1::AttachDeviceRequest& request, DonationStore& store);
Result<std::chrono::milliseconds> ParsePatience(uint32_t deadline_ms);
Result<> CheckDeviceId(const std::string& id);
Result<DetachOptions> ParseDetach(const vmm::v1::DetachDeviceRequest& request);

}  // namespace wyvern::api
