// vhost_user/messages.h — the vhost-user wire: request numbers, feature bits, payload layouts.
// Spec:    QEMU docs/interop/vhost-user.rst (10.0; bits and requests above 19 and 43 from 11.1).
//          Native byte order; every integer is naturally aligned in its payload.
// Shape:   header (12 bytes), payload (header.size bytes); descriptors travel with the header's
//          first byte.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "virtio/feature_bits.h"

namespace wyvern::vhost_user {

// From the front-end to the back-end. What is missing (IOTLB, crypto, postcopy, GPU, in-band
// notifications, shared objects) is not offered and so not sent.
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
  kSendRarp = 19,
  kNetSetMtu = 20,
  kSetBackendReqFd = 21,
  kGetConfig = 24,
  kSetConfig = 25,
  kGetInflightFd = 31,
  kSetInflightFd = 32,
  kResetDevice = 34,
  kGetMaxMemSlots = 36,
  kAddMemReg = 37,
  kRemMemReg = 38,
  kSetStatus = 39,
  kGetStatus = 40,
  kSetDeviceStateFd = 42,
  kCheckDeviceState = 43,
  kGetShmemConfig = 44,
};

// From the back-end to the front-end, over the channel of SET_BACKEND_REQ_FD: numbers of their own.
enum class BackendRequest : uint32_t {
  kConfigChange = 2,
  kShmemMap = 9,
  kShmemUnmap = 10,
};

// What GET_QUEUE_NUM counts in, in queues. The spec says queues; of a network device all peers count
// pairs. QEMU 7.2 and 10.0: net/vhost-user.c, vhost_user_start() compares it with queues= of -netdev.
// DPDK: lib/vhost/vhost_user.c, vhost_user_get_queue_num() answers with rte_vhost_driver_get_queue_num(),
// which is max_queue_pairs. The control queue is in neither count: it is the front-end's.
constexpr uint64_t QueueUnit(uint16_t device_id) {
  return device_id == virtio::kDeviceNet ? 2 : 1;
}

// Bits of the virtio feature words that the device types do not use.
inline constexpr uint64_t kFeatureLogAll = uint64_t{1} << 26;    // VHOST_F_LOG_ALL
inline constexpr uint64_t kFeatureProtocol = uint64_t{1} << 30;  // VHOST_USER_F_PROTOCOL_FEATURES

// VHOST_USER_PROTOCOL_F_*
inline constexpr uint64_t kProtocolMq = uint64_t{1} << 0;
inline constexpr uint64_t kProtocolLogShmfd = uint64_t{1} << 1;
inline constexpr uint64_t kProtocolRarp = uint64_t{1} << 2;
inline constexpr uint64_t kProtocolReplyAck = uint64_t{1} << 3;
inline constexpr uint64_t kProtocolMtu = uint64_t{1} << 4;
inline constexpr uint64_t kProtocolBackendReq = uint64_t{1} << 5;
inline constexpr uint64_t kProtocolConfig = uint64_t{1} << 9;
inline constexpr uint64_t kProtocolBackendSendFd = uint64_t{1} << 10;
inline constexpr uint64_t kProtocolInflightShmfd = uint64_t{1} << 12;
inline constexpr uint64_t kProtocolResetDevice = uint64_t{1} << 13;
inline constexpr uint64_t kProtocolConfigureMemSlots = uint64_t{1} << 15;
inline constexpr uint64_t kProtocolStatus = uint64_t{1} << 16;
inline constexpr uint64_t kProtocolDeviceState = uint64_t{1} << 19;
// Bit 21 is GPA_ADDRESSES in the spec and was SHMEM in rust-vmm's vhost up to 0.16: a peer that
// offers it may mean either, so it is neither offered nor accepted.
inline constexpr uint64_t kProtocolShmem = uint64_t{1} << 22;

struct Header {
  uint32_t request = 0;
  uint32_t flags = 0;
  uint32_t size = 0;  // of the payload
};

inline constexpr uint32_t kVersionMask = 3;
inline constexpr uint32_t kVersion = 1;
inline constexpr uint32_t kFlagReply = 1U << 2;
inline constexpr uint32_t kFlagNeedReply = 1U << 3;

// SET_VRING_BASE and GET_VRING_BASE. Split rings: num is the available index. Packed rings: that in
// bits 0–15 and the used index in bits 16–31, each with its wrap counter on top.
struct VringState {
  uint32_t index = 0;
  uint32_t num = 0;
};

inline constexpr uint32_t kVringLog = 1;  // VHOST_VRING_F_LOG

struct VringAddress {
  uint32_t index = 0;
  uint32_t flags = 0;
  uint64_t descriptor = 0;
  uint64_t used = 0;
  uint64_t available = 0;
  uint64_t log = 0;  // where in the log writes to the used ring are marked
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

struct LogArea {
  uint64_t size = 0;
  uint64_t offset = 0;
};

struct ConfigRange {
  uint32_t offset = 0;
  uint32_t size = 0;
  uint32_t flags = 0;  // SET_CONFIG: 0 the driver writes, 1 live migration
};

inline constexpr size_t kMaxConfigBytes = 256;

// The spec lists the fields only, 20 bytes; peers send the C structure with its padding.
struct InflightArea {
  uint64_t mmap_size = 0;
  uint64_t mmap_offset = 0;
  uint16_t queues = 0;
  uint16_t queue_size = 0;
  uint32_t padding = 0;
};

inline constexpr uint32_t kInflightFields = 20;

struct DeviceStateTransfer {
  uint32_t direction = 0;  // 0: save, from the back-end; 1: load
  uint32_t phase = 0;      // 0: every ring is stopped
};

inline constexpr size_t kShmemRegions = 256;

struct ShmemConfig {
  uint32_t count = 0;  // of the sizes that are not 0
  uint32_t padding = 0;
  uint64_t sizes[kShmemRegions] = {};  // by shmid
};

struct ShmemMapping {
  uint8_t shmid = 0;
  uint8_t padding[7] = {};
  uint64_t fd_offset = 0;
  uint64_t shm_offset = 0;
  uint64_t length = 0;
  uint64_t flags = 0;
};

inline constexpr uint64_t kShmemWritable = 1;

// SET_VRING_KICK, CALL, ERR; the answer to SET_DEVICE_STATE_FD: a u64.
inline constexpr uint64_t kVringIndexMask = 0xff;
inline constexpr uint64_t kNoFd = uint64_t{1} << 8;

static_assert(sizeof(Header) == 12);
static_assert(sizeof(VringState) == 8);
static_assert(sizeof(VringAddress) == 40);
static_assert(offsetof(VringAddress, available) == 24);
static_assert(sizeof(MemoryRegion) == 32);
static_assert(sizeof(MemoryTable) == 8 + 8 * 32);
static_assert(sizeof(SingleRegion) == 40);
static_assert(sizeof(LogArea) == 16);
static_assert(sizeof(ConfigRange) == 12);
static_assert(offsetof(InflightArea, queue_size) == 18 && sizeof(InflightArea) == 24);
static_assert(sizeof(DeviceStateTransfer) == 8);
static_assert(sizeof(ShmemConfig) == 8 + 256 * 8);
static_assert(sizeof(ShmemMapping) == 40);

// What may come with a request; anything else is a fault of framing.
struct RequestRule {
  uint32_t request;
  const char* name;
  uint32_t min_size;
  uint32_t max_size;
  size_t min_fds;
  size_t max_fds;
  bool has_reply;  // beyond REPLY_ACK
  uint64_t needs;  // protocol features that must have been negotiated
};

std::span<const RequestRule> RequestRules();
std::span<const RequestRule> BackendRequestRules();
// Null for a request that we do not know.
const RequestRule* FindRule(std::span<const RequestRule> rules, uint32_t request);
const char* RequestName(uint32_t request);
const char* BackendRequestName(uint32_t request);

}  // namespace wyvern::vhost_user
