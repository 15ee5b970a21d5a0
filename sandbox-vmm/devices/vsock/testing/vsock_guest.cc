#include "vsock/testing/vsock_guest.h"

#include <sys/socket.h>

#include "base/check.h"
#include "base/unix_socket.h"

namespace wyvern::devices::testing {

VsockGuest::VsockGuest(const VsockOptions& options) {
  auto device = VsockDevice::Create(options);
  WV_CHECK(device.has_value());
  device_ = device->get();
  rig_ = std::make_unique<DeviceRig>(*std::move(device));
}

void VsockGuest::Start(int buffers, uint64_t refused) {
  rig_->Start(refused);
  GiveBuffers(buffers);
}

void VsockGuest::GiveBuffers(int count) {
  for (int i = 0; i < count; ++i) {
    rig_->queue(0).Build().Writable(kBuffer).Submit();
  }
  rig_->Kick(0);
}

std::optional<VsockGuest::Packet> VsockGuest::Next(std::chrono::milliseconds timeout) {
  const auto used = rig_->WaitMaybe(0, timeout);
  if (!used) {
    return std::nullopt;
  }
  const std::string bytes = rig_->queue(0).Written(used->head, used->written);
  WV_CHECK(bytes.size() >= sizeof(VsockHeader));
  Packet packet;
  std::memcpy(&packet.header, bytes.data(), sizeof(packet.header));
  packet.data = bytes.substr(sizeof(packet.header));
  WV_CHECK(packet.data.size() == packet.header.length);
  // The same memory again: tests run for longer than the allocator has room.
  const uint64_t mark = rig_->ram().Mark();
  const mem::Gpa again = rig_->queue(0).WritableAddress(used->head);
  rig_->queue(0).Build().WritableAt(again, kBuffer).Submit();
  rig_->Kick(0);
  rig_->ram().Release(mark);
  return packet;
}

VsockGuest::Packet VsockGuest::Expect(VsockOp op) {
  for (;;) {
    auto packet = Next();
    WV_CHECK(packet.has_value());
    if (packet->header.operation() == VsockOp::kCreditUpdate && op != VsockOp::kCreditUpdate) {
      continue;
    }
    WV_CHECK(packet->header.operation() == op);
    return *packet;
  }
}

VsockHeader VsockGuest::Reply(const VsockHeader& to, VsockOp op) {
  VsockHeader header;
  header.src_cid = kCid;
  header.dst_cid = kHostCid;
  header.src_port = to.dst_port;
  header.dst_port = to.src_port;
  header.op = static_cast<uint16_t>(op);
  header.buffer_size = guest_buffer;
  header.forwarded = consumed;
  return header;
}

void VsockGuest::Send(const VsockHeader& header, std::string_view data) {
  const uint64_t mark = rig_->ram().Mark();
  std::string bytes(reinterpret_cast<const char*>(&header), sizeof(header));
  bytes += data;
  rig_->queue(1).Build().Readable(bytes).Submit();
  rig_->Kick(1);
  rig_->WaitUsed(1);
  rig_->ram().Release(mark);
}

VsockGuest::Stream VsockGuest::Connect(uint32_t port, uint32_t buffer) {
  auto pair = MakeSocketPair(SOCK_STREAM);
  WV_CHECK(pair.has_value());
  guest_buffer = buffer;
  consumed = 0;
  WV_CHECK(device_->ConnectStream(port, std::move(pair->second), [](Result<>) {}).has_value());
  const Packet request = Expect(VsockOp::kRequest);
  Send(Reply(request.header, VsockOp::kResponse));
  return {.request = request.header, .host = std::move(pair->first)};
}

}  // namespace wyvern::devices::testing
