#include "sandbox/pod_network.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "network/connect.h"
#include "network/guest_network.h"

namespace wyvern::runtime {

Result<> PodNetwork::Sync() {
  const std::lock_guard lock(mu_);
  if (closed_) {
    return {};
  }
  WV_TRY(NetworkScan scan, ScanNetwork(options_.network_namespace));
  TellLeftOut(scan.left_out);
  const NetworkChange change = Compare(given_, scan);
  for (const int index : change.went) {
    Disconnect(index);
  }
  Result<> first;
  std::set<int> failed;
  for (const Interface& interface : change.came) {
    auto connected = Connect(interface);
    if (!connected.has_value()) {
      failed.insert(interface.index);
      if (first.has_value()) {
        first = tl::unexpected(
            std::move(connected).error().WithContext("network interface " + interface.name));
      }
    }
  }
  // The guest is told of what it has, and the next time what failed has come again.
  std::erase_if(scan.interfaces,
                [&failed](const Interface& each) { return failed.contains(each.index); });
  guest_due_ =
      guest_due_ || (change.guest && !(scan.interfaces.empty() && given_.interfaces.empty()));
  given_ = std::move(scan);
  if (guest_due_) {
    auto told = options_.agent->SetNetwork(ToSetNetwork(given_));
    guest_due_ = !told.has_value();
    if (first.has_value()) {
      first = std::move(told);
    }
  }
  return first;
}

Result<> PodNetwork::Connect(const Interface& interface) {
  const std::string id = fmt::format("net-{}", next_++);
  devices_.insert_or_assign(interface.index, id);
  auto connected = Record().and_then(
      [&] { return ConnectInterface(options_.network_namespace, interface, options_.queues); });
  if (!connected.has_value()) {
    // It left nothing. What is there is another sandbox's, whose network this one wanted to share: not to be touched, now or by a clean-up.
    devices_.erase(interface.index);
    static_cast<void>(Record());
    return tl::unexpected(std::move(connected).error());
  }
  // The machine has the taps then: its end is theirs.
  auto attached = options_.machine->AttachNetwork(id, connected->taps,
                                                  {.mac = connected->mac,
                                                   .mtu = connected->mtu,
                                                   .receive_rate = options_.receive_rate,
                                                   .transmit_rate = options_.transmit_rate});
  if (!attached.has_value()) {
    Disconnect(interface.index);
  }
  return attached;
}

void PodNetwork::Disconnect(int index) {
  const auto it = devices_.find(index);
  if (it == devices_.end()) {
    return;
  }
  const auto warn = [this](const Result<>& result) {
    if (!result.has_value()) {
      WV_WARN("sandbox {}: {}", options_.id, result.error().message());
    }
  };
  // Packets first: the guest's device hears no more of an interface that goes.
  const auto disconnected = DisconnectInterface(options_.network_namespace, index);
  warn(disconnected);
  if (!options_.machine->DetachDevice(it->second, /*force=*/false).has_value()) {
    warn(options_.machine->DetachDevice(it->second, /*force=*/true));
  }
  if (disconnected.has_value()) {  // else Close tries again
    devices_.erase(it);
  }
  warn(Record());
}

Result<> PodNetwork::Record() {
  std::vector<int> connected;
  connected.reserve(devices_.size());
  for (const auto& [index, id] : devices_) {
    connected.push_back(index);
  }
  return options_.record(connected);
}

void PodNetwork::TellLeftOut(const std::vector<std::string>& lines) {
  for (const std::string& line : lines) {
    if (told_.size() < kMaxInterfaces && told_.insert(line).second) {
      WV_WARN("sandbox {}: the guest does not get {}", options_.id, line);
    }
  }
}

Result<> PodNetwork::Watch(LoopThread& loop, std::function<void()> changed) {
  loop_ = &loop;
  Result<> started;
  loop.Call([&] {
    auto watch = NetworkWatch::Start(loop.loop(), options_.network_namespace, std::move(changed));
    if (watch.has_value()) {
      watch_ = std::move(*watch);
    } else {
      started = tl::unexpected(std::move(watch).error());
    }
  });
  return started;
}

Result<> PodNetwork::Close() {
  const std::lock_guard lock(mu_);
  closed_ = true;
  if (LoopThread* const loop = std::exchange(loop_, nullptr); loop != nullptr) {
    loop->Call([this] { watch_.reset(); });
  }
  if (devices_.empty()) {
    return {};
  }
  Result<> first;
  std::erase_if(devices_, [&](const auto& device) {
    auto gone = DisconnectInterface(options_.network_namespace, device.first);
    const bool done = gone.has_value();
    if (!done && first.has_value()) {
      first = std::move(gone);
    }
    return done;
  });
  auto recorded = Record();
  return first.has_value() ? std::move(recorded) : std::move(first);
}

}  // namespace wyvern::runtime
