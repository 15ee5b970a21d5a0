#include "vhost_user/messages.h"

#include <algorithm>
#include <array>

namespace wyvern::vhost_user {

namespace {

constexpr uint32_t kU64 = sizeof(uint64_t);
constexpr uint32_t kState = sizeof(VringState);
constexpr uint32_t kAddress = sizeof(VringAddress);
constexpr uint32_t kRange = sizeof(ConfigRange);
constexpr uint32_t kRegion = sizeof(SingleRegion);
constexpr uint32_t kInflight = sizeof(InflightArea);
constexpr uint32_t kTransfer = sizeof(DeviceStateTransfer);
constexpr uint32_t kMapping = sizeof(ShmemMapping);
constexpr uint64_t kSlots = kProtocolConfigureMemSlots;

constexpr uint32_t Id(Request request) {
  return static_cast<uint32_t>(request);
}

constexpr uint32_t Id(BackendRequest request) {
  return static_cast<uint32_t>(request);
}

// {request, name, least and most bytes, least and most descriptors, has a reply, needs}
constexpr std::array<RequestRule, 34> kRules = {{
    {Id(Request::kGetFeatures), "GET_FEATURES", 0, 0, 0, 0, true, 0},
    {Id(Request::kSetFeatures), "SET_FEATURES", kU64, kU64, 0, 0, false, 0},
    {Id(Request::kSetOwner), "SET_OWNER", 0, 0, 0, 0, false, 0},
    {Id(Request::kResetOwner), "RESET_OWNER", 0, 0, 0, 0, false, 0},
    // The table may be cut behind its last region.
    {Id(Request::kSetMemTable), "SET_MEM_TABLE", 8 + 32, sizeof(MemoryTable), 1, kMaxTableRegions,
     false, 0},
    {Id(Request::kSetLogBase), "SET_LOG_BASE", sizeof(LogArea), sizeof(LogArea), 1, 1, true,
     kProtocolLogShmfd},
    {Id(Request::kSetLogFd), "SET_LOG_FD", 0, kU64, 1, 1, false, kProtocolLogShmfd},
    {Id(Request::kSetVringNum), "SET_VRING_NUM", kState, kState, 0, 0, false, 0},
    {Id(Request::kSetVringAddr), "SET_VRING_ADDR", kAddress, kAddress, 0, 0, false, 0},
    {Id(Request::kSetVringBase), "SET_VRING_BASE", kState, kState, 0, 0, false, 0},
    {Id(Request::kGetVringBase), "GET_VRING_BASE", kState, kState, 0, 0, true, 0},
    {Id(Request::kSetVringKick), "SET_VRING_KICK", kU64, kU64, 0, 1, false, 0},
    {Id(Request::kSetVringCall), "SET_VRING_CALL", kU64, kU64, 0, 1, false, 0},
    {Id(Request::kSetVringErr), "SET_VRING_ERR", kU64, kU64, 0, 1, false, 0},
    {Id(Request::kGetProtocolFeatures), "GET_PROTOCOL_FEATURES", 0, 0, 0, 0, true, 0},
    {Id(Request::kSetProtocolFeatures), "SET_PROTOCOL_FEATURES", kU64, kU64, 0, 0, false, 0},
    // Due when MQ was offered, negotiated or not.
    {Id(Request::kGetQueueNum), "GET_QUEUE_NUM", 0, 0, 0, 0, true, 0},
    {Id(Request::kSetVringEnable), "SET_VRING_ENABLE", kState, kState, 0, 0, false, 0},
    {Id(Request::kSendRarp), "SEND_RARP", kU64, kU64, 0, 0, false, kProtocolRarp},
    {Id(Request::kNetSetMtu), "NET_SET_MTU", kU64, kU64, 0, 0, false, kProtocolMtu},
    {Id(Request::kSetBackendReqFd), "SET_BACKEND_REQ_FD", 0, 0, 1, 1, false, kProtocolBackendReq},
    {Id(Request::kGetConfig), "GET_CONFIG", kRange, kRange + kMaxConfigBytes, 0, 0, true,
     kProtocolConfig},
    {Id(Request::kSetConfig), "SET_CONFIG", kRange, kRange + kMaxConfigBytes, 0, 0, false,
     kProtocolConfig},
    {Id(Request::kGetInflightFd), "GET_INFLIGHT_FD", kInflightFields, kInflight, 0, 0, true,
     kProtocolInflightShmfd},
    {Id(Request::kSetInflightFd), "SET_INFLIGHT_FD", kInflightFields, kInflight, 1, 1, false,
     kProtocolInflightShmfd},
    {Id(Request::kResetDevice), "RESET_DEVICE", 0, 0, 0, 0, false, kProtocolResetDevice},
    {Id(Request::kGetMaxMemSlots), "GET_MAX_MEM_SLOTS", 0, 0, 0, 0, true, kSlots},
    {Id(Request::kAddMemReg), "ADD_MEM_REG", kRegion, kRegion, 1, 1, false, kSlots},
    // Front-ends send the region's descriptor here, too; it is closed.
    {Id(Request::kRemMemReg), "REM_MEM_REG", kRegion, kRegion, 0, 1, false, kSlots},
    {Id(Request::kSetStatus), "SET_STATUS", kU64, kU64, 0, 0, false, kProtocolStatus},
    {Id(Request::kGetStatus), "GET_STATUS", 0, 0, 0, 0, true, kProtocolStatus},
    {Id(Request::kSetDeviceStateFd), "SET_DEVICE_STATE_FD", kTransfer, kTransfer, 1, 1, true,
     kProtocolDeviceState},
    {Id(Request::kCheckDeviceState), "CHECK_DEVICE_STATE", 0, 0, 0, 0, true, kProtocolDeviceState},
    {Id(Request::kGetShmemConfig), "GET_SHMEM_CONFIG", 0, 0, 0, 0, true, kProtocolShmem},
}};

constexpr std::array<RequestRule, 3> kBackendRules = {{
    {Id(BackendRequest::kConfigChange), "BACKEND_CONFIG_CHANGE_MSG", 0, 0, 0, 0, false,
     kProtocolConfig},
    {Id(BackendRequest::kShmemMap), "BACKEND_SHMEM_MAP", kMapping, kMapping, 1, 1, false,
     kProtocolShmem},
    {Id(BackendRequest::kShmemUnmap), "BACKEND_SHMEM_UNMAP", kMapping, kMapping, 0, 0, false,
     kProtocolShmem},
}};

const char* NameOf(std::span<const RequestRule> rules, uint32_t request) {
  const RequestRule* rule = FindRule(rules, request);
  return rule == nullptr ? "an unknown request" : rule->name;
}

}  // namespace

std::span<const RequestRule> RequestRules() {
  return kRules;
}

std::span<const RequestRule> BackendRequestRules() {
  return kBackendRules;
}

const RequestRule* FindRule(std::span<const RequestRule> rules, uint32_t request) {
  const auto rule = std::ranges::find(rules, request, &RequestRule::request);
  return rule == rules.end() ? nullptr : &*rule;
}

const char* RequestName(uint32_t request) {
  return NameOf(kRules, request);
}

const char* BackendRequestName(uint32_t request) {
  return NameOf(kBackendRules, request);
}

}  // namespace wyvern::vhost_user
