// net/net_shared.h — what the queues of one network device share.
// Threads: the device's worker; the counters any, written by the worker only.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>

#include "base/event_loop.h"
#include "net/net_abi.h"
#include "net/rx_filter.h"
#include "net/tap_backend.h"
#include "rate_limit/rate_limiter.h"

namespace wyvern::devices {

struct NetCounters {
  std::atomic<uint64_t> rx_packets{0};
  std::atomic<uint64_t> rx_bytes{0};
  std::atomic<uint64_t> rx_copied_bytes{0};  // of packets longer than expected
  std::atomic<uint64_t> rx_filtered{0};      // the driver does not want them
  std::atomic<uint64_t> rx_too_long{0};      // than the MTU, or than the buffer without MRG_RXBUF
  std::atomic<uint64_t> rx_no_room{0};       // dropped after waiting for buffers
  std::atomic<uint64_t> rx_bad_packets{0};   // from the tap: runts, offloads that are off
  std::atomic<uint64_t> rx_bad_buffers{0};   // from the driver: too small for a header, read-only
  std::atomic<uint64_t> rx_link_down{0};
  std::atomic<uint64_t> rx_throttled{0};  // times
  std::atomic<uint64_t> rx_errors{0};     // of the tap
  std::atomic<uint64_t> tx_packets{0};
  std::atomic<uint64_t> tx_bytes{0};
  std::atomic<uint64_t> tx_bad_lengths{0};
  std::atomic<uint64_t> tx_bad_headers{0};
  std::atomic<uint64_t> tx_inactive{0};  // on pairs beyond those in use, on disabled rings
  std::atomic<uint64_t> tx_link_down{0};
  std::atomic<uint64_t> tx_throttled{0};  // times
  std::atomic<uint64_t> tx_blocked{0};    // times that the tap had no room
  std::atomic<uint64_t> tx_errors{0};     // packets that the tap refused
  std::atomic<uint64_t> announced{0};     // RARP packets of ours
};

// One writer, so no locked instruction per packet.
inline void NetCount(std::atomic<uint64_t>& counter, uint64_t add = 1) {
  counter.store(counter.load(std::memory_order_relaxed) + add, std::memory_order_relaxed);
}

struct NetShared {
  // Parts that one readv or writev takes (IOV_MAX), less one for what is ours.
  static constexpr size_t kMaxParts = 1023;

  EventLoop& loop;
  TapBackend& tap;
  const RxFilter& filter;
  const char* name;  // for logs
  std::chrono::milliseconds room_wait;
  uint16_t mtu = 0;       // for a driver that negotiates it
  uint16_t told_mtu = 0;  // by a front-end whose driver has; 0: nothing told
  uint64_t features = 0;  // negotiated
  uint64_t offloads = 0;  // GUEST_ features that are on
  uint16_t pairs = 1;     // in use
  bool link_up = true;

  // What a packet to the driver may have behind its Ethernet header; 0: no limit.
  uint16_t mtu_limit() const {
    return told_mtu != 0 ? told_mtu : (features & kNetMtu) != 0 ? mtu : uint16_t{0};
  }

  RateLimiter receive{};
  RateLimiter transmit{};
  // For a packet in more parts than one call takes. Never touched, so never backed, until then.
  std::unique_ptr<std::byte[]> scratch = std::make_unique_for_overwrite<std::byte[]>(kNetMaxPacket);
  NetCounters counters{};
};

}  // namespace wyvern::devices
