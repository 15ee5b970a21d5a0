// What the host's side does with a network device: link, limits, state, metrics.
#include "net/net_device.h"
#include "net/net_header.h"
#include "virtio/feature_bits.h"

namespace wyvern::devices {

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
          {"commands", control_.commands()},
          {"commands_refused", control_.refused()},
          {"faults", get(faults_)}};
}

}  // namespace wyvern::devices
