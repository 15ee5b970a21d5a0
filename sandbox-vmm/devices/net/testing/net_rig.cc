#include "net/testing/net_rig.h"

#include <poll.h>
#include <sys/socket.h>

#include <cstring>
#include <thread>

#include "base/check.h"

namespace wyvern::devices::testing {

namespace {

using RigClock = std::chrono::steady_clock;

constexpr std::chrono::seconds kPatience{10};

}  // namespace

std::string Frame(size_t size, const MacAddress& destination, uint16_t type) {
  WV_CHECK(size >= kEthernetHeader);
  std::string frame(size, '\0');
  for (size_t i = 0; i < size; ++i) {
    frame[i] = static_cast<char>('a' + (i * 7 + i / 251) % 26);
  }
  std::memcpy(frame.data(), destination.data(), destination.size());
  std::memcpy(frame.data() + 6, kHostMac.data(), kHostMac.size());
  const Be16 wire(type);
  std::memcpy(frame.data() + 12, &wire, sizeof(wire));
  return frame;
}

NetHeader TsoHeader(uint8_t type, uint16_t gso_size) {
  NetHeader header;
  header.flags = kNetNeedsCsum;
  header.gso_type = type;
  header.hdr_len = uint16_t{54};
  header.gso_size = gso_size;
  header.csum_start = uint16_t{34};
  header.csum_offset = static_cast<uint16_t>(type == kNetGsoUdp ? 6 : 16);
  return header;
}

NetRig::NetRig(const NetRigOptions& options) {
  auto tap = std::make_unique<FakeTap>(options.pairs, options.offloads);
  tap_ = tap.get();
  NetInterface interface {
    .mac = kGuestMac, .mtu = options.mtu
  };
  auto device = NetDevice::Create({.worker = {.name = "net", .on_thread_start = nullptr},
                                   .tap = std::move(tap),
                                   .interface = interface,
                                   .queue_size = options.queue_size,
                                   .receive = options.receive,
                                   .transmit = options.transmit,
                                   .room_wait = options.room_wait});
  WV_CHECK(device.has_value());
  net_ = device->get();
  rig_ = std::make_unique<DeviceRig>(*std::move(device), options.rig);
}

uint16_t NetRig::Offer(uint32_t size, uint16_t pair) {
  const auto queue = static_cast<uint16_t>(2 * pair);
  const uint16_t head = rig_->queue(queue).Build().Writable(size).Submit();
  rig_->Kick(queue);
  return head;
}

void NetRig::OfferMany(int count, uint32_t size, uint16_t pair) {
  for (int i = 0; i < count; ++i) {
    Offer(size, pair);
  }
}

uint16_t NetRig::Transmit(std::string_view frame, const NetHeader& header, uint16_t pair) {
  const auto queue = static_cast<uint16_t>(2 * pair + 1);
  const uint16_t head = rig_->queue(queue).Build().Readable(Raw(header)).Readable(frame).Submit();
  rig_->Kick(queue);
  return head;
}

NetPacket NetRig::Next(uint16_t pair) {
  auto packet = NextMaybe(pair, kPatience);
  WV_CHECK(packet.has_value());
  return *std::move(packet);
}

std::optional<NetPacket> NetRig::NextMaybe(uint16_t pair, std::chrono::milliseconds timeout) {
  const auto queue = static_cast<uint16_t>(2 * pair);
  auto used = rig_->WaitMaybe(queue, timeout);
  if (!used) {
    return std::nullopt;
  }
  NetPacket packet;
  if (used->written < kNetHeaderSize) {
    packet.chains = 0;  // given back empty
    return packet;
  }
  std::string bytes = rig_->queue(queue).Written(used->head, used->written);
  std::memcpy(&packet.header, bytes.data(), kNetHeaderSize);
  packet.chains = packet.header.num_buffers.value();
  for (uint32_t i = 1; i < packet.chains; ++i) {
    // The device publishes the buffers of a packet together: none is missing now.
    const auto more = rig_->queue(queue).MustTakeUsed();
    bytes += rig_->queue(queue).Written(more.head, more.written);
  }
  packet.bytes = bytes.substr(kNetHeaderSize);
  return packet;
}

uint16_t NetRig::control_queue() const {
  const bool multi_queue = (rig_->queue(0).features() & kNetMq) != 0;
  return static_cast<uint16_t>(multi_queue ? 2 * tap_->pairs() : 2);
}

uint8_t NetRig::Command(NetClass command_class, uint8_t command, std::string_view data) {
  const NetCommand header{.command_class = static_cast<uint8_t>(command_class), .command = command};
  const uint16_t queue = control_queue();
  auto build = rig_->queue(queue).Build();
  build.Readable(Raw(header));
  if (!data.empty()) {
    build.Readable(data);
  }
  const uint16_t head = build.Writable(1).Submit();
  rig_->Kick(queue);
  WV_CHECK(rig_->WaitUsed(queue).written == 1);
  return static_cast<uint8_t>(rig_->queue(queue).Written(head, 1)[0]);
}

bool NetRig::HostSend(std::string_view frame, const NetHeader& header, uint16_t pair) {
  const std::string packet = Raw(header) + std::string(frame);
  return send(tap_->host(pair).get(), packet.data(), packet.size(), MSG_NOSIGNAL) ==
         static_cast<ssize_t>(packet.size());
}

NetPacket NetRig::HostReceive(uint16_t pair) {
  auto packet = HostReceiveMaybe(pair, kPatience);
  WV_CHECK(packet.has_value());
  return *std::move(packet);
}

std::optional<NetPacket> NetRig::HostReceiveMaybe(uint16_t pair,
                                                  std::chrono::milliseconds timeout) {
  pollfd ready{.fd = tap_->host(pair).get(), .events = POLLIN, .revents = 0};
  if (poll(&ready, 1, static_cast<int>(timeout.count())) != 1) {
    return std::nullopt;
  }
  std::string bytes(size_t{128} << 10, '\0');
  const ssize_t got = recv(ready.fd, bytes.data(), bytes.size(), 0);
  WV_CHECK(got >= static_cast<ssize_t>(kNetHeaderSize));
  NetPacket packet;
  std::memcpy(&packet.header, bytes.data(), kNetHeaderSize);
  packet.bytes = bytes.substr(kNetHeaderSize, static_cast<size_t>(got) - kNetHeaderSize);
  return packet;
}

bool NetRig::WaitCounter(std::string_view name, uint64_t value) {
  const auto end = RigClock::now() + kPatience;
  while (counter(name) < value) {
    if (RigClock::now() >= end) {
      return false;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

}  // namespace wyvern::devices::testing
