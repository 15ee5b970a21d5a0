// What the host's side does with a network device: link, limits, state, metrics.
#include <fmt/format.h>

#include <array>
#include <cstring>

#include "net/net_device.h"
#include "net/net_header.h"
#include "virtio/feature_bits.h"

namespace wyvern::devices {

namespace {

constexpr uint16_t kRarpType = 0x8035;
constexpr uint16_t kRequestReverse = 3;

// "Who am I?" to everybody (RFC 903): switches learn by it where the station is. As long as the
// shortest frame of Ethernet.
struct RarpFrame {
  explicit RarpFrame(const MacAddress& mac) : source(mac), sender(mac), target(mac) {
    destination.fill(0xff);
  }

  MacAddress destination{};
  MacAddress source;
  Be16 type = kRarpType;
  Be16 hardware = uint16_t{1};
  Be16 protocol = uint16_t{0x0800};
  uint8_t hardware_length = sizeof(MacAddress);
  uint8_t protocol_length = 4;
  Be16 operation = kRequestReverse;
  MacAddress sender;
  std::array<uint8_t, 4> sender_address{};
  MacAddress target;
  std::array<uint8_t, 4> target_address{};
  std::array<uint8_t, 18> padding{};
};

static_assert(sizeof(RarpFrame) == 60);

}  // namespace

void NetDevice::SignalConfig() {
  if (interrupt_ != nullptr && (shared_.features & kNetStatus) != 0) {
    interrupt_->SignalConfig();
  }
}

void NetDevice::SetLinkUp(bool up) {
  worker_->Call([&] {
    if (!config_.SetStatus(kNetLinkUp, up)) {
      return;
    }
    shared_.link_up = up;
    tap_->SetCarrier(up);
    SignalConfig();
    for (Pair& pair : pairs_) {
      pair.receiver.OnReadable();
    }
  });
}

void NetDevice::SetLimits(const RateLimiterConfig& receive, const RateLimiterConfig& transmit) {
  worker_->Call([&] {
    const RateLimiter::Time now = RateLimiter::Now();
    shared_.receive.Update(receive, now);
    shared_.transmit.Update(transmit, now);
    for (Pair& pair : pairs_) {
      pair.receiver.LimitChanged();
      pair.transmitter.LimitChanged();
    }
  });
}

void NetDevice::Announce() {
  worker_->Call([&] {
    if ((shared_.features & kNetGuestAnnounce) != 0 && config_.SetStatus(kNetAnnounce, true)) {
      SignalConfig();
    }
  });
}

Result<> NetDevice::SendRarp(const MacAddress& mac) {
  if (!IsStation(mac)) {
    return Fail(Code::kInvalidArgument, "what is announced is the address of one station");
  }
  Result<> result;
  worker_->Call([&] {
    if (!shared_.link_up) {
      result = Fail(Code::kFailedPrecondition, "the link is down");
      return;
    }
    NetHeader header;
    RarpFrame frame(mac);
    const std::array<iovec, 2> parts = {{{.iov_base = &header, .iov_len = sizeof(header)},
                                         {.iov_base = &frame, .iov_len = sizeof(frame)}}};
    if (const ssize_t sent = tap_->Send(0, parts); sent < 0) {
      result = Fail(Code::kUnavailable,
                    fmt::format("the tap: {}", strerrordesc_np(static_cast<int>(-sent))));
      return;
    }
    NetCount(shared_.counters.announced);
  });
  return result;
}

Result<> NetDevice::SetMtu(uint16_t mtu) {
  const uint16_t most = config_.interface().mtu;
  if (mtu < kNetMinMtu || (most != 0 && mtu > most)) {
    return Fail(Code::kInvalidArgument, fmt::format("an MTU of {}", mtu));
  }
  worker_->Call([&] { shared_.told_mtu = mtu; });
  return {};
}

NetState NetDevice::Save() {
  NetState state;
  worker_->Call([&] {
    const RateLimiter::Time now = RateLimiter::Now();
    state.features = negotiated_ ? shared_.features : 0;
    state.offloads = shared_.offloads;
    state.pairs = shared_.pairs;
    state.announce = config_.status(kNetAnnounce);
    state.filter = control_.filter();
    state.receive = shared_.receive.Save(now);
    state.transmit = shared_.transmit.Save(now);
  });
  return state;
}

Result<> NetDevice::Restore(const NetState& state) {
  const uint64_t offered = traits_.features | virtio::kVersion1;
  if (state.version != NetState::kVersion || (state.features & ~offered) != 0 ||
      (state.offloads & ~(state.features & kNetGuestOffloads)) != 0 || state.pairs == 0 ||
      state.pairs > max_pairs()) {
    return Fail(Code::kInvalidArgument, "the state of another network device");
  }
  Result<> result;
  worker_->Call([&] {
    if (!SetPairs(state.pairs) || !SetOffloads(state.offloads)) {
      result = Fail(Code::kUnavailable, "the tap does not do what the state needs");
      return;
    }
    const RateLimiter::Time now = RateLimiter::Now();
    shared_.features = state.features;
    negotiated_ = state.features != 0;
    control_.Restore(state.filter);
    config_.SetStatus(kNetAnnounce, state.announce);
    shared_.receive.Restore(state.receive, now);
    shared_.transmit.Restore(state.transmit, now);
  });
  return result;
}

std::vector<virtio::CounterValue> NetDevice::counters() const {
  const auto get = [](const std::atomic<uint64_t>& counter) {
    return counter.load(std::memory_order_relaxed);
  };
  const NetCounters& all = shared_.counters;
  return {{"rx_packets", get(all.rx_packets)},
          {"rx_bytes", get(all.rx_bytes)},
          {"rx_copied_bytes", get(all.rx_copied_bytes)},
          {"rx_filtered", get(all.rx_filtered)},
          {"rx_too_long", get(all.rx_too_long)},
          {"rx_no_room", get(all.rx_no_room)},
          {"rx_bad_packets", get(all.rx_bad_packets)},
          {"rx_bad_buffers", get(all.rx_bad_buffers)},
          {"rx_link_down", get(all.rx_link_down)},
          {"rx_throttled", get(all.rx_throttled)},
          {"rx_errors", get(all.rx_errors)},
          {"tx_packets", get(all.tx_packets)},
          {"tx_bytes", get(all.tx_bytes)},
          {"tx_bad_lengths", get(all.tx_bad_lengths)},
          {"tx_bad_headers", get(all.tx_bad_headers)},
          {"tx_inactive", get(all.tx_inactive)},
          {"tx_link_down", get(all.tx_link_down)},
          {"tx_throttled", get(all.tx_throttled)},
          {"tx_blocked", get(all.tx_blocked)},
          {"tx_errors", get(all.tx_errors)},
          {"announced", get(all.announced)},
          {"commands", control_.commands()},
          {"commands_refused", control_.refused()},
          {"faults", get(faults_)}};
}

}  // namespace wyvern::devices
