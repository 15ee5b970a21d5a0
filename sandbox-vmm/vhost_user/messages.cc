#include "vhost_user/messages.h"

#include <algorithm>
#include <array>

namespace wyvern::vhost_user {

namespace {

constexpr uint32_t kU64 = sizeof(uint64_t);
constexpr uint32_t kState = sizeof(VringState);
constexpr uint32_t kRange = sizeof(ConfigRange);

constexpr std::array<RequestRule, 23> kRules = {{
    {Request::kGetFeatures, 0, 0, 0, 0, true},
    {Request::kSetFeatures, kU64, kU64, 0, 0, false},
    {Request::kSetOwner, 0, 0, 0, 0, false},
    {Request::kResetOwner, 0, 0, 0, 0, false},
    // The table may be cut behind its last region.
    {Request::kSetMemTable, 8 + 32, sizeof(MemoryTable), 1, kMaxTableRegions, false},
    {Request::kSetVringNum, kState, kState, 0, 0, false},
    {Request::kSetVringAddr, sizeof(VringAddress), sizeof(VringAddress), 0, 0, false},
    {Request::kSetVringBase, kState, kState, 0, 0, false},
    {Request::kGetVringBase, kState, kState, 0, 0, true},
    {Request::kSetVringKick, kU64, kU64, 0, 1, false},
    {Request::kSetVringCall, kU64, kU64, 0, 1, false},
    {Request::kSetVringErr, kU64, kU64, 0, 1, false},
    {Request::kGetProtocolFeatures, 0, 0, 0, 0, true},
    {Request::kSetProtocolFeatures, kU64, kU64, 0, 0, false},
    {Request::kGetQueueNum, 0, 0, 0, 0, true},
    {Request::kSetVringEnable, kState, kState, 0, 0, false},
    {Request::kSetBackendReqFd, 0, 0, 1, 1, false},
    {Request::kGetConfig, kRange, kRange + kMaxConfigBytes, 0, 0, true},
    {Request::kSetConfig, kRange, kRange + kMaxConfigBytes, 0, 0, false},
    {Request::kResetDevice, 0, 0, 0, 0, false},
    {Request::kGetMaxMemSlots, 0, 0, 0, 0, true},
    {Request::kAddMemReg, sizeof(SingleRegion), sizeof(SingleRegion), 1, 1, false},
    // Front-ends send the region's descriptor here, too.
    {Request::kRemMemReg, sizeof(SingleRegion), sizeof(SingleRegion), 0, 1, false},
}};

}  // namespace

std::span<const RequestRule> RequestRules() {
  return kRules;
}

const RequestRule* FindRule(uint32_t request) {
  const auto* rule =
      std::ranges::find(kRules, static_cast<Request>(request), &RequestRule::request);
  return rule == kRules.end() ? nullptr : rule;
}

const char* RequestName(uint32_t request) {
  switch (static_cast<Request>(request)) {
    case Request::kGetFeatures:
      return "GET_FEATURES";
    case Request::kSetFeatures:
      return "SET_FEATURES";
    case Request::kSetOwner:
      return "SET_OWNER";
    case Request::kResetOwner:
      return "RESET_OWNER";
    case Request::kSetMemTable:
      return "SET_MEM_TABLE";
    case Request::kSetLogBase:
      return "SET_LOG_BASE";
    case Request::kSetLogFd:
      return "SET_LOG_FD";
    case Request::kSetVringNum:
      return "SET_VRING_NUM";
    case Request::kSetVringAddr:
      return "SET_VRING_ADDR";
    case Request::kSetVringBase:
      return "SET_VRING_BASE";
    case Request::kGetVringBase:
      return "GET_VRING_BASE";
    case Request::kSetVringKick:
      return "SET_VRING_KICK";
    case Request::kSetVringCall:
      return "SET_VRING_CALL";
    case Request::kSetVringErr:
      return "SET_VRING_ERR";
    case Request::kGetProtocolFeatures:
      return "GET_PROTOCOL_FEATURES";
    case Request::kSetProtocolFeatures:
      return "SET_PROTOCOL_FEATURES";
    case Request::kGetQueueNum:
      return "GET_QUEUE_NUM";
    case Request::kSetVringEnable:
      return "SET_VRING_ENABLE";
    case Request::kSetBackendReqFd:
      return "SET_BACKEND_REQ_FD";
    case Request::kGetConfig:
      return "GET_CONFIG";
    case Request::kSetConfig:
      return "SET_CONFIG";
    case Request::kResetDevice:
      return "RESET_DEVICE";
    case Request::kGetMaxMemSlots:
      return "GET_MAX_MEM_SLOTS";
    case Request::kAddMemReg:
      return "ADD_MEM_REG";
    case Request::kRemMemReg:
      return "REM_MEM_REG";
  }
  return "an unknown request";
}

}  // namespace wyvern::vhost_user
