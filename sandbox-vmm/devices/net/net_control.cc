#include "net/net_control.h"

#include <algorithm>
#include <optional>
#include <utility>

namespace wyvern::devices {

namespace {

// The data of a command that must be exactly one T.
template <typename T>
std::optional<T> CommandData(const virtio::Chain& chain) {
  if (chain.readable_length() != sizeof(NetCommand) + sizeof(T)) {
    return std::nullopt;
  }
  auto data = chain.ReadAs<T>(sizeof(NetCommand));
  return data ? std::optional<T>(*data) : std::nullopt;
}

// One of the two tables of MAC_TABLE_SET at `*offset`, which moves behind it. Nothing: the chain
// ends before the table does.
std::optional<RxTable> ReadTable(const virtio::Chain& chain, uint64_t* offset) {
  const uint64_t total = chain.readable_length();
  if (*offset + sizeof(Le32) > total) {
    return std::nullopt;
  }
  const auto entries = chain.ReadAs<Le32>(static_cast<uint32_t>(*offset));
  if (!entries) {
    return std::nullopt;
  }
  *offset += sizeof(Le32);
  const uint64_t bytes = uint64_t{entries->value()} * sizeof(MacAddress);
  if (bytes > total - *offset) {
    return std::nullopt;
  }
  RxTable table;
  table.overflow = entries->value() > RxTable::kMaxEntries;
  table.count = table.overflow ? 0 : entries->value();
  const auto addresses = std::span(table.addresses).first(table.count);
  if (!chain.Read(static_cast<uint32_t>(*offset), std::as_writable_bytes(addresses))) {
    return std::nullopt;
  }
  *offset += bytes;
  return table;
}

}  // namespace

void NetControl::Serve(ActiveQueue& queue, uint64_t features) {
  queue.Drain([&](virtio::Chain chain) {
    const uint32_t written = Answer(chain, features);
    queue.queue().Push(std::move(chain), written);
    return true;
  });
}

uint32_t NetControl::Answer(virtio::Chain& chain, uint64_t features) {
  ++commands_;
  // Without room for the answer the driver could not know what became of its command.
  const bool done = chain.writable_length() > 0 && Execute(chain, features);
  refused_ += done ? 0 : 1;
  if (chain.writable_length() == 0) {
    return 0;
  }
  const std::byte answer = done ? kNetOk : kNetErr;
  return chain.Write(0, std::span(&answer, 1)) ? 1 : 0;
}

bool NetControl::Execute(const virtio::Chain& chain, uint64_t features) {
  const auto header = chain.ReadAs<NetCommand>(0);
  if (!header) {
    return false;
  }
  const uint8_t command = header->command;
  switch (static_cast<NetClass>(header->command_class)) {
    case NetClass::kRx:
      return SetMode(chain, command, features);
    case NetClass::kMac:
      return SetAddresses(chain, command, features);
    case NetClass::kAnnounce:
      if ((features & kNetGuestAnnounce) == 0 || command != kNetAnnounceAck ||
          chain.readable_length() != sizeof(NetCommand)) {
        return false;
      }
      config_.SetStatus(kNetAnnounce, false);  // before the buffer is used (§5.1.9.5.4.2)
      return true;
    case NetClass::kMq: {
      // RSS_CONFIG and HASH_CONFIG belong to features that are never offered.
      const auto pairs = CommandData<Le16>(chain);
      return (features & kNetMq) != 0 && command == kNetMqPairsSet && pairs.has_value() &&
             pairs->value() >= 1 && pairs->value() <= max_pairs_ &&
             target_.SetPairs(pairs->value());
    }
    case NetClass::kOffloads: {
      const auto offloads = CommandData<Le64>(chain);
      return (features & kNetCtrlGuestOffloads) != 0 && command == kNetOffloadsSet &&
             offloads.has_value() && (offloads->value() & ~(features & kNetGuestOffloads)) == 0 &&
             target_.SetOffloads(offloads->value());
    }
    case NetClass::kVlan:  // not offered
      return false;
  }
  return false;
}

bool NetControl::SetMode(const virtio::Chain& chain, uint8_t mode, uint64_t features) {
  const uint64_t needs = mode <= kNetRxAllMulticast ? kNetCtrlRx : kNetCtrlRxExtra;
  const auto on = CommandData<uint8_t>(chain);
  if ((features & needs) == 0 || !on || *on > 1) {
    return false;
  }
  switch (mode) {
    case kNetRxPromiscuous:
      filter_.promiscuous = *on != 0;
      return true;
    case kNetRxAllMulticast:
      filter_.all_multicast = *on != 0;
      return true;
    case kNetRxAllUnicast:
      filter_.all_unicast = *on != 0;
      return true;
    case kNetRxNoMulticast:
      filter_.no_multicast = *on != 0;
      return true;
    case kNetRxNoUnicast:
      filter_.no_unicast = *on != 0;
      return true;
    case kNetRxNoBroadcast:
      filter_.no_broadcast = *on != 0;
      return true;
    default:
      return false;
  }
}

bool NetControl::SetAddresses(const virtio::Chain& chain, uint8_t command, uint64_t features) {
  if (command == kNetMacTableSet) {
    return (features & kNetCtrlRx) != 0 && SetTables(chain);
  }
  const auto mac = CommandData<MacAddress>(chain);
  if (command != kNetMacAddrSet || (features & kNetCtrlMacAddr) == 0 || !mac ||
      ((*mac)[0] & 1U) != 0) {
    return false;
  }
  config_.set_mac(*mac);
  filter_.own = *mac;
  return true;
}

bool NetControl::SetTables(const virtio::Chain& chain) {
  uint64_t offset = sizeof(NetCommand);
  const auto unicast = ReadTable(chain, &offset);
  if (!unicast) {
    return false;
  }
  const auto multicast = ReadTable(chain, &offset);
  if (!multicast || offset != chain.readable_length()) {
    return false;
  }
  filter_.unicast = *unicast;
  filter_.multicast = *multicast;
  return true;
}

void NetControl::Reset() {
  Restore({.own = config_.interface().mac});
  config_.SetStatus(kNetAnnounce, false);
}

void NetControl::Restore(const RxFilter& filter) {
  filter_ = filter;
  filter_.unicast.count = std::min(filter.unicast.count, RxTable::kMaxEntries);
  filter_.multicast.count = std::min(filter.multicast.count, RxTable::kMaxEntries);
  config_.set_mac(filter.own);
}

}  // namespace wyvern::devices
