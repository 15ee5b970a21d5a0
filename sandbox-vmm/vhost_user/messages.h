// vhost_user/messages.h — the vhost-user wire: request numbers, feature bits, payload layouts.
// Spec:    QEMU docs/interop/vhost-user.rst. Native byte order; every integer is naturally aligned
//          in its payload.
// Shape:   header (12 bytes), payload (header.size bytes); descriptors travel with the header's
//          first byte.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace wyvern::vhost_user {

enum class Request : uint32_t {
  kGetFeatures = 1,
  kSetFeatures = 2,
  kSetOwner = 3,
  kResetOwner = 4,  // deprecated
  kSetMemTable = 5,
  kSetLogBase = 6,
  kSetLogFd = 7,
  kSetVringNum = 8,
  kSetVringAddr = 9,
  kSetVringBase = 10,
  kGetVringBase = 11,
  kSetVringKick = 12,
  kSetVringCall = 13,
  kSetVringErr = 14,
  kGetProtocolFeatures = 15,
  kSetProtocolFeatures = 16,
  kGetQueueNum = 17,
  kSetVringEnable = 18,
  kSetBackendReqFd = 21,
  kGetConfig = 24,
  kSetConfig = 25,
  kResetDevice = 34,
  kGetMaxMemSlots = 36,
  kAddMemReg = 37,
  kRemMemReg = 38,
};

// VHOST_USER_F_PROTOCOL_FEATURES: a bit of the virtio feature words that virtio itself does not
// use.
inline constexpr uint64_t kFeatureProtocol = uint64_t{1} << 30;

// VHOST_USER_PROTOCOL_F_*
inline constexpr uint64_t kProtocolMq = uint64_t{1} << 0;
inline constexpr uint64_t kProtocolReplyAck = uint64_t{1} << 3;
inline constexpr uint64_t kProtocolBackendReq = uint64_t{1} << 5;
inline constexpr uint64_t kProtocolConfig = uint64_t{1} << 9;
inline constexpr uint64_t kProtocolResetDevice = uint64_t{1} << 13;
inline constexpr uint64_t kProtocolConfigureMemSlots = uint64_t{1} << 15;

struct Header {
  uint32_t request = 0;
  uint32_t flags = 0;
  uint32_t size = 0;  // of the payload
};

inline constexpr uint32_t kVersionMask = 3;
inline constexpr uint32_t kVersion = 1;
inline constexpr uint32_t kFlagReply = 1U << 2;
inline constexpr uint32_t kFlagNeedReply = 1U << 3;

struct VringState {
  uint32_t index = 0;
  uint32_t num = 0;
};

struct VringAddress {
  uint32_t index = 0;
  uint32_t flags = 0;  // bit 0: log, which we do not offer
  uint64_t descriptor = 0;
  uint64_t used = 0;
  uint64_t available = 0;
  uint64_t log = 0;
};

struct MemoryRegion {
  uint64_t guest_address = 0;
  uint64_t size = 0;
  uint64_t user_address = 0;
  uint64_t mmap_offset = 0;
};

inline constexpr size_t kMaxTableRegions = 8;

struct MemoryTable {
  uint32_t count = 0;
  uint32_t padding = 0;
  MemoryRegion regions[kMaxTableRegions];
};

struct SingleRegion {
  uint64_t padding = 0;
  MemoryRegion region;
};

struct ConfigRange {
  uint32_t offset = 0;
  uint32_t size = 0;
  uint32_t flags = 0;
};

inline constexpr size_t kMaxConfigBytes = 256;

// SET_VRING_KICK, CALL, ERR: a u64.
inline constexpr uint64_t kVringIndexMask = 0xff;
inline constexpr uint64_t kVringNoFd = uint64_t{1} << 8;

static_assert(sizeof(Header) == 12);
static_assert(sizeof(VringState) == 8);
static_assert(sizeof(VringAddress) == 40);
static_assert(offsetof(VringAddress, available) == 24);
static_assert(sizeof(MemoryRegion) == 32);
static_assert(sizeof(MemoryTable) == 8 + 8 * 32);
static_assert(sizeof(SingleRegion) == 40);
static_assert(sizeof(ConfigRange) == 12);

// What a front-end may send with a request; anything else is a fault of framing.
struct RequestRule {
  Request request;
  uint32_t min_size;
  uint32_t max_size;
  size_t min_fds;
  size_t max_fds;
  bool has_reply;  // beyond REPLY_ACK
};

std::span<const RequestRule> RequestRules();
// Null for a request that we do not know.
const RequestRule* FindRule(uint32_t request);
const char* RequestName(uint32_t request);

}  // namespace wyvern::vhost_user
